/* The channels of each tensor pooled into one row of numbers, from the tables that were read.

   signal.py does the same with numpy, and says what the numbers mean. */

enum { POOLED = 9 };

/* Moments of one channel, from its row of a table. */
struct channel { double n, mean, m2, m3, m4; };

static struct channel channel_of(const double *row) {
    double n = row[1], scale = row[5], s1 = row[7], s2 = row[8], s3 = row[9], s4 = row[10];
    double shift = s1 / (n > 1 ? n : 1), square = shift * shift, scale2 = scale * scale;
    return (struct channel){
        .n = n,
        .mean = scale * (row[6] + shift),
        .m2 = scale2 * fmax(s2 - n * square, 0),
        .m3 = scale2 * scale * (s3 - shift * (3 * s2 - 2 * n * square)),
        .m4 = scale2 * scale2 * fmax(s4 - 4 * shift * s3 + square * (6 * s2 - 3 * n * square), 0),
    };
}

/* Pool `count` tables, each of its own number of channels x NUMBERS, into rows of POOLED.

   Powers are summed about the mean of the first channel that has any finite samples, and moved to
   the mean of all: where channels have equal counts that is within sqrt(channels) standard
   deviations of it, which costs channels² roundings of m4 at the most. */
void sigprop_pool(int64_t count, const int64_t *tables, const int64_t *channels, double *out) {
    for (int64_t t = 0; t < count; t++, out += POOLED) {
        const double *first = (const double *)(intptr_t)tables[t];
        const double *last = first + channels[t] * NUMBERS;
        const double *some = first;
        while (some < last - NUMBERS && some[1] == 0) some += NUMBERS;
        const double about = channel_of(some).mean;
        double elements = 0, n = 0, zeros = 0, largest = 0, within = 0, between = 0;
        double s1 = 0, s2 = 0, s3 = 0, s4 = 0;
        for (const double *row = first; row < last; row += NUMBERS) {
            struct channel c = channel_of(row);
            double d = c.mean - about, d2 = d * d;
            elements += row[0], n += row[1], zeros += row[2];
            if (-row[3] > largest) largest = -row[3];
            if (row[4] > largest) largest = row[4];
            within += c.m2, between += c.n * c.mean * c.mean;
            s1 += c.n * d;
            s2 += c.m2 + c.n * d2;
            s3 += c.m3 + d * (3 * c.m2 + c.n * d2);
            s4 += c.m4 + 4 * d * c.m3 + d2 * (6 * c.m2 + c.n * d2);
        }
        double shift = s1 / fmax(n, 1), square = shift * shift;
        double row[POOLED] = {
            elements, n, zeros, largest, about + shift, within, between,
            fmax(s2 - n * square, 0),
            fmax(s4 - 4 * shift * s3 + square * (6 * s2 - 3 * n * square), 0),
        };
        memcpy(out, row, sizeof row);
    }
}
