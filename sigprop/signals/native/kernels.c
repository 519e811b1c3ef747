/* The library, as one unit: every instruction set's loops, and the functions that Python calls. */

#include "instruction_sets.h"
#include "threads.h"
#include "columns.h"
#include "channel_statistics.c"
#include "norms.c"
#include "products.c"
#include "pooling.c"
#include "build.c"
