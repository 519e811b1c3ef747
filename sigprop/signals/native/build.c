/* What Python compares when it opens the library. */

#ifndef SIGPROP_SOURCES
#define SIGPROP_SOURCES "unknown"
#endif

/* The checksum of the sources that this library was compiled from. */
const char *sigprop_sources(void) {
    return SIGPROP_SOURCES;
}

/* The columns of channel statistics, each followed by a comma. */
const char *sigprop_columns(void) {
    return EACH_COLUMN(NAME_AND_COMMA);
}

/* The columns of pooled statistics, each followed by a comma. */
const char *sigprop_pooled_columns(void) {
    return EACH_POOLED_COLUMN(NAME_AND_COMMA);
}
