/* The templates for the instruction set that instruction_sets.h has just named. */

#define REAL float
#define WHOLE int32_t
#define CAREFUL 0
#define NAME(f) JOIN(f, fast, TARGETED)
#include "lanes.h"
#undef REAL
#undef WHOLE
#undef CAREFUL
#undef NAME

#define REAL double
#define WHOLE int64_t
#define CAREFUL 1
#define NAME(f) JOIN(f, careful, TARGETED)
#include "lanes.h"
#include "pairs.h"
#undef REAL
#undef WHOLE
#undef CAREFUL
#undef NAME

static const struct passes JOIN(passes, of, TARGETED) = {
    {JOIN(rows, fast, TARGETED), JOIN(rows, careful, TARGETED)},
    {JOIN(columns, fast, TARGETED), JOIN(columns, careful, TARGETED)},
    JOIN(pairs, careful, TARGETED),
};

#undef TARGETED
#undef TARGET
#undef WIDTH
#undef LESSER
#undef GREATER
