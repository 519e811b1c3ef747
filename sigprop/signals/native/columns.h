/* The columns of the tables that C and Python share, by name; columns.py has the same lists, and
   the library is not used unless they agree. */

/* One channel's row of channel statistics. */
#define EACH_COLUMN(X)                                                                             \
    X(elements) X(finite) X(zeros) X(lowest) X(highest) X(scale) X(center) X(s1) X(s2) X(s3) X(s4)

/* One tensor's row of sums over its channels. */
#define EACH_POOLED_COLUMN(X)                                                                      \
    X(elements) X(samples) X(zeros) X(max_abs) X(mean) X(within) X(between) X(m2) X(m4)

#define MEMBER(name) double name;
#define NAME_AND_COMMA(name) #name ","

struct channel_row { EACH_COLUMN(MEMBER) };
struct pooled_row { EACH_POOLED_COLUMN(MEMBER) };
