/* Sums over the elements of two tensors at once, in double precision. A template like lanes.h. */

/* Sums of x², y², and of xy or, for a `difference`, (y - x)². Carefully, elements where either is
   not finite are left out. */
INLINE void NAME(pairs_of)(const void *x, const void *y, int type, int64_t n, int difference,
                           int careful, double out[3]) {
    NAME(reals) xx = NAME(spread)(0), yy = xx, third = xx;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        NAME(reals) a = NAME(load)(x, i, type), b = NAME(load)(y, i, type);
        if (careful) {
            NAME(wholes) finite = (a - a == 0) & (b - b == 0);
            a = (NAME(reals))((NAME(wholes))a & finite);
            b = (NAME(reals))((NAME(wholes))b & finite);
        }
        xx += a * a, yy += b * b;
        third += difference ? (b - a) * (b - a) : a * b;
    }
    out[0] = out[1] = out[2] = 0;
    for (int j = 0; j < LANES; j++) out[0] += xx[j], out[1] += yy[j], out[2] += third[j];
    for (; i < n; i++) {
        double a = value(x, i, type), b = value(y, i, type);
        if (careful && !(isfinite(a) && isfinite(b))) continue;
        out[0] += a * a, out[1] += b * b;
        out[2] += difference ? (b - a) * (b - a) : a * b;
    }
}

TARGET static void NAME(pairs)(const void *x, const void *y, int type, int64_t n, int difference,
                               int careful, double out[3]) {
    if (type == FLOAT32 && difference) NAME(pairs_of)(x, y, FLOAT32, n, 1, 0, out);
    else if (type == FLOAT32 && !careful) NAME(pairs_of)(x, y, FLOAT32, n, 0, 0, out);
    else if (type == FLOAT64) NAME(pairs_of)(x, y, FLOAT64, n, difference, careful, out);
    else NAME(pairs_of)(x, y, type, n, difference, careful, out);
}
