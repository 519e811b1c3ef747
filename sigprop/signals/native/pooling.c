/* The channels of each tensor pooled into one row of numbers, from their channel statistics.

   signal.py does the same with numpy, and says what the numbers mean. */

/* Moments of one channel, from its row of channel statistics. */
struct channel { double n, mean, m2, m3, m4; };

static struct channel channel_of(const struct channel_row *row) {
    double n = row->finite, scale = row->scale, s1 = row->s1, s2 = row->s2, s3 = row->s3;
    double shift = s1 / (n > 1 ? n : 1), square = shift * shift, scale2 = scale * scale;
    return (struct channel){
        .n = n,
        .mean = scale * (row->center + shift),
        .m2 = scale2 * fmax(s2 - n * square, 0),
        .m3 = scale2 * scale * (s3 - shift * (3 * s2 - 2 * n * square)),
        .m4 = scale2 * scale2 *
              fmax(row->s4 - 4 * shift * s3 + square * (6 * s2 - 3 * n * square), 0),
    };
}

/* Pool `count` tables, each of its own number of channels, into a row each.

   Powers are summed about the mean of the first channel that has any finite samples, and moved to
   the mean of all: where channels have equal counts that is within sqrt(channels) standard
   deviations of it, which costs channels² roundings of m4 at the most. */
void sigprop_pool(int64_t count, const int64_t *tables, const int64_t *channels,
                  struct pooled_row *out) {
    for (int64_t t = 0; t < count; t++) {
        const struct channel_row *first = (const struct channel_row *)(intptr_t)tables[t];
        const struct channel_row *last = first + channels[t], *some = first;
        while (some < last - 1 && some->finite == 0) some++;
        const double about = channel_of(some).mean;
        struct pooled_row all = {0};
        double s1 = 0, s2 = 0, s3 = 0, s4 = 0;
        for (const struct channel_row *row = first; row < last; row++) {
            struct channel c = channel_of(row);
            double d = c.mean - about, d2 = d * d;
            all.elements += row->elements, all.samples += row->finite, all.zeros += row->zeros;
            if (-row->lowest > all.max_abs) all.max_abs = -row->lowest;
            if (row->highest > all.max_abs) all.max_abs = row->highest;
            all.within += c.m2, all.between += c.n * c.mean * c.mean;
            s1 += c.n * d;
            s2 += c.m2 + c.n * d2;
            s3 += c.m3 + d * (3 * c.m2 + c.n * d2);
            s4 += c.m4 + 4 * d * c.m3 + d2 * (6 * c.m2 + c.n * d2);
        }
        double n = all.samples, shift = s1 / fmax(n, 1), square = shift * shift;
        all.mean = about + shift;
        all.m2 = fmax(s2 - n * square, 0);
        all.m4 = fmax(s4 - 4 * shift * s3 + square * (6 * s2 - 3 * n * square), 0);
        out[t] = all;
    }
}
