/* The library, as one unit: every instruction set's loops, and the functions that Python calls. */

#include "targets.h"
#include "threads.h"
#include "readings.c"
#include "norms.c"
#include "pool.c"
