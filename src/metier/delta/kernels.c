/* The inner loops of merges, each over one slice that lies in a core's cache. Every loop does the very float32 operations that its
   counterpart in torch does, in the same order (compiled without contraction), so that both give the same bits.
   See native.py, chance.py and sums.py for the callers' side. Values are float32; uint16_t holds the bits of a bfloat16. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define CHUNK 1024
#define LANES 32
#define ADDENDS 4 /* how many entries of a row of products are added up side by side */

#ifdef __AVX512F__ /* what the processor holds in one register: compilers take wider vectors apart, entry by entry */
#define WIDTH 16
#elif defined(__AVX2__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
typedef float Lanes __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t Bits __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef uint64_t Words __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
#define HALF (WIDTH / 2)

#ifndef FP_FAST_FMAF /* a processor without it would take a hundred times as long, and torch rounds twice there as well */
#define fmaf(a, b, c) ((a) * (b) + (c))
#endif

static inline float wide(uint16_t b) {
    uint32_t u = (uint32_t)b << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

/* The bits of f, rounded to those of a bfloat16 in the upper half (the lower one is to be dropped): to nearest, ties to even; not a number
   stays one. */
static inline uint32_t nearest(float f) {
    uint32_t u = bits_of(f), near = u + 0x7FFFu + ((u >> 16) & 1u);
    return f != f ? 0x7FC00000u : near;
}

#define TOO_LARGE 0x7F7F8000 /* the bits of the least magnitude that rounds to infinity */

/* out = tuned - base */
void between(const uint16_t *tuned, const uint16_t *base, float *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = wide(tuned[i]) - wide(base[i]);
}

/* out = m entries from `start` on of tuned - base, or of tuned where base is NULL. */
static inline void changed(const uint16_t *base, const uint16_t *tuned, int64_t start, int m, float *out) {
    if (base)
        between(tuned + start, base + start, out, m);
    else
        for (int i = 0; i < m; i++) out[i] = wide(tuned[start + i]);
}

/* out = scale * the sum of factor * x over k tensors, x = tuned - base, or tuned where base is NULL; the first product is rounded, the
   others are added in one rounding each, as torch does. */
static inline void sum_of(const uint16_t *base, const uint16_t *const *tuned, const float *factors, int k, float scale, int64_t at, int m,
                          float *out) {
    for (int r = 0; r < k; r++) {
        const uint16_t *x = tuned[r] + at;
        float c = factors[r];
        if (base && r == 0)
            for (int i = 0; i < m; i++) out[i] = (wide(x[i]) - wide(base[at + i])) * c;
        else if (base)
            for (int i = 0; i < m; i++) out[i] = fmaf(c, wide(x[i]) - wide(base[at + i]), out[i]);
        else if (r == 0)
            for (int i = 0; i < m; i++) out[i] = wide(x[i]) * c;
        else
            for (int i = 0; i < m; i++) out[i] = fmaf(c, wide(x[i]), out[i]);
    }
    if (scale != 1)
        for (int i = 0; i < m; i++) out[i] *= scale;
}

void summed(const uint16_t *base, const uint16_t *const *tuned, const float *factors, int k, float scale, float *out, int64_t n) {
    for (int64_t start = 0; start < n; start += CHUNK)
        sum_of(base, tuned, factors, k, scale, start, (int)(n - start < CHUNK ? n - start : CHUNK), out + start);
}

/* |tuned - base| in short runs, one at some place of every `step` entries (at even distances they might all fall on the same columns):
   out, (runs, length). */
void sampled(const uint16_t *tuned, const uint16_t *base, int64_t step, int64_t runs, int64_t length, float *out) {
    for (int64_t r = 0; r < runs; r++) {
        uint64_t mixed = ((uint64_t)r + 1) * 0x9E3779B97F4A7C15u;
        int64_t at = r * step + (int64_t)((mixed >> 32) % (uint64_t)(step - length + 1));
        for (int64_t i = 0; i < length; i++) out[r * length + i] = fabsf(wide(tuned[at + i]) - wide(base[at + i]));
    }
}

/* out = base + change, rounded once; a change of 0 leaves an entry as it is. Returns whether an entry of out is not finite. */
int added(const uint16_t *base, const float *change, uint16_t *out, int64_t n) {
    int32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        float before = wide(base[i]), sum = before + change[i];
        int32_t size = (int32_t)(bits_of(sum) & 0x7FFFFFFFu);
        most = size > most ? size : most;
        out[i] = (uint16_t)((change[i] == 0 ? bits_of(before) : nearest(sum)) >> 16);
    }
    return most >= TOO_LARGE;
}

/* out = values, rounded. Returns whether an entry of out is not finite. */
int rounded(const float *values, uint16_t *out, int64_t n) {
    int32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t size = (int32_t)(bits_of(values[i]) & 0x7FFFFFFFu);
        most = size > most ? size : most;
        out[i] = (uint16_t)(nearest(values[i]) >> 16);
    }
    return most >= TOO_LARGE;
}

/* rows[0] = the sum of coef * row, as in `summed`. */
void total(float *const *rows, const float *coefs, int k, int64_t n) {
    for (int64_t start = 0; start < n; start += CHUNK) {
        int m = (int)(n - start < CHUNK ? n - start : CHUNK);
        float *sum = rows[0] + start;
        for (int i = 0; i < m; i++) sum[i] *= coefs[0];
        for (int r = 1; r < k; r++)
            for (int i = 0; i < m; i++) sum[i] = fmaf(coefs[r], rows[r][start + i], sum[i]);
    }
}

/* out (k, k) += the inner products of the rows' first m entries, in float64: m / ADDENDS of them in a row, and those sums one after another. */
static inline __attribute__((always_inline)) void products(double (*rows)[CHUNK], int k, int m, double *out) {
    enum { MANY = HALF < ADDENDS ? HALF : ADDENDS, PARTS = ADDENDS / MANY };
    typedef double Part __attribute__((vector_size(8 * MANY), aligned(8), may_alias));
    Part sums[k][k][PARTS];
    memset(sums, 0, sizeof sums);
    for (int i = 0; i < m; i += ADDENDS)
        for (int r = 0; r < k; r++)
            for (int s = 0; s <= r; s++)
                for (int p = 0; p < PARTS; p++) sums[r][s][p] += ((const Part *)(rows[r] + i))[p] * ((const Part *)(rows[s] + i))[p];
    for (int r = 0; r < k; r++)
        for (int s = 0; s <= r; s++) {
            double sum = 0;
            for (int l = 0; l < ADDENDS; l++) sum += sums[r][s][l / MANY][l % MANY];
            out[r * k + s] += sum;
            if (s < r) out[s * k + r] += sum;
        }
}

/* out (k, k) += the inner products of the rows, or of k tensors (less the base where there is one), which are stored. */
static void grams(float *const *rows, const uint16_t *base, const uint16_t *const *tuned, int k, int64_t n, double *out) {
    double here[k][CHUNK];
    for (int64_t start = 0; start < n; start += CHUNK) {
        int m = (int)(n - start < CHUNK ? n - start : CHUNK), whole = (m + ADDENDS - 1) / ADDENDS * ADDENDS;
        for (int r = 0; r < k; r++) {
            double *x = here[r];
            if (rows)
                for (int i = 0; i < m; i++) x[i] = rows[r][start + i];
            else if (base)
                for (int i = 0; i < m; i++) x[i] = wide(tuned[r][start + i]) - wide(base[start + i]);
            else
                for (int i = 0; i < m; i++) x[i] = wide(tuned[r][start + i]);
            for (int i = m; i < whole; i++) x[i] = 0;
        }
        switch (k) { /* sums whose number is known beforehand stay in registers */
        case 1: products(here, 1, whole, out); break;
        case 2: products(here, 2, whole, out); break;
        case 3: products(here, 3, whole, out); break;
        case 4: products(here, 4, whole, out); break;
        default: products(here, k, whole, out);
        }
    }
}

void gram(float *const *rows, int k, int64_t n, double *out) { grams(rows, NULL, NULL, k, n, out); }

void gram_stored(const uint16_t *base, const uint16_t *const *tuned, int k, int64_t n, double *out) { grams(NULL, base, tuned, k, n, out); }

/* out = values, 0 where their magnitude is at most `limit`. */
void shrink(const float *values, float limit, float *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = fabsf(values[i]) <= limit ? 0.0f : values[i];
}

/* Positions of the bytes in `found`, a byte of 0 or 1 for each of m <= CHUNK entries (a multiple of 8). Returns how many. The first of eight is
   noted whether there is one or not: where few are found, a branch would be foretold wrongly each time. */
static inline int64_t positions(const uint8_t *found, int64_t m, int32_t *at) {
    int64_t count = 0;
    for (int64_t w = 0; w < m; w += 8) {
        uint64_t bits;
        memcpy(&bits, found + w, 8);
        at[count] = (int32_t)(w + __builtin_ctzll(bits | 1ull << 63) / 8);
        count += bits != 0;
        for (bits &= bits - 1; bits; bits &= bits - 1) at[count++] = (int32_t)(w + __builtin_ctzll(bits) / 8);
    }
    return count;
}

/* Magnitudes against a bracket: how many are above high, equal to high, equal to low, and which are inside (held, of which there are `within`),
   low and high themselves only where they are not apart. */
typedef struct {
    float low, high;
    int32_t low_apart, high_apart;
    int64_t above, highs, lows, within;
    float *held; /* room for all */
} Bracket;

/* size: the bits of m magnitudes, which are ordered as the numbers are; nones: how many of them are not a number */
static void look_at(Bracket *b, const uint32_t *size, int m, int nones) {
    uint32_t bottom = bits_of(b->low), top = bits_of(b->high), first = bottom + (b->low_apart != 0), last = top - (b->high_apart != 0);
    uint32_t above = 0, highs = 0, lows = 0, span = last - first;
    int none_inside = top < (uint32_t)(b->high_apart != 0) || first > last;
    uint8_t inside[CHUNK];
    int32_t at[CHUNK];
    memset(inside + m / 8 * 8, 0, (size_t)((m + 7) / 8 * 8 - m / 8 * 8));
    for (int i = 0; i < m; i++) {
        above += size[i] > top;
        inside[i] = size[i] - first <= span;
    }
    if (b->high_apart || none_inside)
        for (int i = 0; i < m; i++) highs += size[i] == top;
    if (b->low_apart || none_inside)
        for (int i = 0; i < m; i++) lows += size[i] == bottom;
    b->above += above - (uint32_t)nones, b->highs += highs, b->lows += lows;
    int64_t many = none_inside ? 0 : positions(inside, (m + 7) / 8 * 8, at);
    for (int64_t i = 0; i < many; i++) {
        uint32_t u = size[at[i]];
        memcpy(b->held + b->within + i, &u, 4);
        b->highs += !b->high_apart && u == top;
        b->lows += !b->low_apart && u == bottom;
    }
    b->within += many;
}

/* size = the bits of m magnitudes, those of values, or, where that is NULL, of tuned - base. */
static inline void sizes_of(const float *values, const uint16_t *tuned, const uint16_t *base, int m, uint32_t *size) {
    if (values)
        for (int i = 0; i < m; i++) size[i] = bits_of(values[i]) & 0x7FFFFFFFu;
    else
        for (int i = 0; i < m; i++) size[i] = bits_of(wide(tuned[i]) - wide(base[i])) & 0x7FFFFFFFu;
}

/* The place of the kept-th of n magnitudes that equal `value`, the last one's where there are fewer; those found are taken from `kept`. */
int64_t tied(const float *values, const uint16_t *tuned, const uint16_t *base, int64_t n, float value, int64_t *kept) {
    uint32_t size[CHUNK], wanted = bits_of(value);
    for (int64_t start = 0; start < n; start += CHUNK) {
        int m = (int)(n - start < CHUNK ? n - start : CHUNK), many = 0;
        sizes_of(values ? values + start : NULL, tuned + start, base + start, m, size);
        for (int i = 0; i < m; i++) many += size[i] == wanted;
        if (many >= *kept)
            for (int i = 0; i < m; i++)
                if (size[i] == wanted && --*kept == 0) return start + i;
        *kept -= many;
    }
    return n - 1;
}

/* Looks at magnitudes against each bracket, and returns how many are not a number. values: float32; NULL: they are tuned - base. */
int64_t look(const float *values, const uint16_t *tuned, const uint16_t *base, int64_t n, Bracket *brackets, int count) {
    uint32_t size[CHUNK];
    int64_t nones = 0;
    for (int64_t start = 0; start < n; start += CHUNK) {
        int m = (int)(n - start < CHUNK ? n - start : CHUNK), here = 0;
        uint32_t most = 0;
        sizes_of(values ? values + start : NULL, tuned + start, base + start, m, size);
        for (int i = 0; i < m; i++) most = size[i] > most ? size[i] : most;
        if (most > 0x7F800000u)
            for (int i = 0; i < m; i++) here += size[i] > 0x7F800000u;
        nones += here;
        for (int j = 0; j < count; j++) look_at(brackets + j, size, m, here);
    }
    return nones;
}

/* The rank-th largest of all magnitudes in `count` parts, none of them not a number: its bits, how many of those equal to it the rank takes,
   and how many there are. Bins of the bits are counted, then finer ones of the bin that holds it. */
void ranked(const float *const *parts, const int64_t *lengths, int64_t count, int64_t rank, int64_t *found) {
    uint32_t first = UINT32_MAX, last = 0, bins[2048];
    for (int64_t p = 0; p < count; p++)
        for (int64_t i = 0; i < lengths[p]; i++) {
            uint32_t u = bits_of(parts[p][i]);
            first = u < first ? u : first, last = u > last ? u : last;
        }
    for (uint32_t span = last - first, shift = 32;; span = (1u << shift) - 1) {
        for (shift = 0; span >> shift >= 2048;) shift++;
        memset(bins, 0, sizeof bins);
        for (int64_t p = 0; p < count; p++)
            for (int64_t i = 0; i < lengths[p]; i++) {
                uint32_t u = bits_of(parts[p][i]) - first;
                if (u <= span) bins[u >> shift]++;
            }
        uint32_t bin = span >> shift;
        while (rank > bins[bin]) rank -= bins[bin--];
        first += bin << shift;
        if (shift == 0) {
            found[0] = first, found[1] = rank, found[2] = bins[bin];
            return;
        }
    }
}

/* rows[0] = mean, weighted by |coef|, of the entries coef * row whose sign is that of their sum; 0 where none is. equal: all |coefs| are the
   same. least: what 0 is divided by where no entry agrees. */
static inline __attribute__((always_inline)) void elect_lanes(float *const *rows, int k, const float *coefs, int equal, float least, int64_t i) {
    const Lanes none = {0};
    float one = fabsf(coefs[0]) == 0 ? 1.0f : fabsf(coefs[0]), floor = equal ? 1.0f : least, times = equal ? one : 1.0f;
    Lanes total = *(Lanes *)(rows[0] + i) * coefs[0], sum = none, weight = none;
    for (int r = 1; r < k; r++) total += *(Lanes *)(rows[r] + i) * coefs[r];
    Lanes sign = (Lanes)(((total > none) & (Bits)(none + 1.0f)) | ((total < none) & (Bits)(none - 1.0f)) | ((total != total) & (Bits)total));
    for (int r = 0; r < k; r++) {
        Lanes size = *(Lanes *)(rows[r] + i) * coefs[r] * sign;
        Bits agrees = size > none; /* not where it is not a number: the sign is none then either */
        weight += (Lanes)(agrees & (Bits)(none + (equal ? 1.0f : fabsf(coefs[r]))));
        sum += (Lanes)(agrees & (Bits)size);
    }
    Bits low = weight < none + floor;
    weight = (Lanes)((low & (Bits)(none + floor)) | (~low & (Bits)weight)) * times;
    *(Lanes *)(rows[0] + i) = sum / weight * sign;
}

static inline __attribute__((always_inline)) void elect_whole(float *const *rows, int k, const float *coefs, int equal, float least, int64_t n) {
    for (int64_t i = 0; i < n; i += WIDTH) elect_lanes(rows, k, coefs, equal, least, i);
}

void elect(float *const *rows, int k, const float *coefs, int equal, float least, int64_t n) {
    int64_t whole = n / WIDTH * WIDTH;
    if (k == 2) { /* numbers that are known beforehand stay in registers: 0.74 ns an entry instead of 1.0 */
        float *const two[2] = {rows[0], rows[1]};
        const float own[2] = {coefs[0], coefs[1]};
        elect_whole(two, 2, own, equal, least, whole);
    } else if (k == 3) {
        float *const three[3] = {rows[0], rows[1], rows[2]};
        const float own[3] = {coefs[0], coefs[1], coefs[2]};
        elect_whole(three, 3, own, equal, least, whole);
    } else
        elect_whole(rows, k, coefs, equal, least, whole);
    if (whole == n) return;
    float rest[k][WIDTH], *places[k];
    for (int r = 0; r < k; r++) {
        places[r] = memset(rest[r], 0, sizeof rest[r]);
        memcpy(rest[r], rows[r] + whole, (size_t)(n - whole) * sizeof(float));
    }
    elect_lanes(places, k, coefs, equal, least, 0);
    memcpy(rows[0] + whole, rest[0], (size_t)(n - whole) * sizeof(float));
}

/* out = 32 random bits for each of the CHUNK entries of one chunk of a tensor: two from every number of eight generators SFC64 (Doty-Humphrey)
   side by side, which begin at key[0], key[1], key[2] + 8 * chunk + their own index, with the counter 1, and leave out twelve numbers. */
static void drawn(const uint64_t key[3], int64_t chunk, uint32_t *out) {
    enum { VECTORS = 8 / HALF, ROUNDS = CHUNK / 16 };
    Words a[VECTORS], b[VECTORS], c[VECTORS], counter = (Words){0} + 1;
    for (int v = 0; v < VECTORS; v++) {
        a[v] = (Words){0} + key[0], b[v] = (Words){0} + key[1];
        for (int l = 0; l < HALF; l++) c[v][l] = key[2] + 8 * (uint64_t)chunk + (uint64_t)(v * HALF + l);
    }
    for (int i = -12; i < ROUNDS; i++, counter += 1)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            Words next = a[v] + b[v] + counter;
            a[v] = b[v] ^ (b[v] >> 11);
            b[v] = c[v] + (c[v] << 3);
            c[v] = (c[v] << 24 | c[v] >> 40) + next;
            if (i >= 0) *(Words *)(out + 16 * i + v * WIDTH) = next;
        }
}

/* out = 32 random bits for each of n entries of a tensor, from entry `at` on. */
void draw(const uint64_t *key, int64_t at, uint32_t *out, int64_t n) {
    for (int64_t i = 0; i < n;) {
        int64_t chunk = (at + i) / CHUNK, first = (at + i) % CHUNK, m = CHUNK - first < n - i ? CHUNK - first : n - i;
        if (m == CHUNK) {
            drawn(key, chunk, out + i);
        } else {
            uint32_t all[CHUNK];
            drawn(key, chunk, all);
            memcpy(out + i, all + first, (size_t)m * sizeof *out);
        }
        i += m;
    }
}

/* Zero where the draw is not below `below`, all else times the factor. The values are m <= CHUNK entries of a tensor, from entry `at` on. */
static inline void thinned(float *x, const uint64_t *key, int64_t at, uint32_t below, float factor, int m) {
    uint32_t draws[CHUNK];
    draw(key, at, draws, m);
    for (int i = 0; i < m; i++) x[i] = (draws[i] < below ? x[i] : 0.0f) * factor;
}

void drop(float *values, const uint64_t *key, int64_t at, uint32_t below, float factor, int64_t n) {
    for (int64_t start = 0; start < n; start += CHUNK)
        thinned(values + start, key, at + start, below, factor, (int)(n - start < CHUNK ? n - start : CHUNK));
}

/* What is done to a change before it is combined. If there are `divisors`, it is divided by them, and zero where they are. Else, if `drops`,
   entries are dropped at random, as by `drop`, the first being entry `at` of the tensor. Else magnitudes are kept that are above `low`, or equal
   to it up to index `low_last`, and not above `high`, nor equal to it up to `high_last`. What is left is cut at `limit`, of either sign. */
typedef struct {
    int64_t drops, at, low_last, high_last;
    uint64_t key[3];
    const float *divisors;
    uint32_t below;
    float low, high, factor, limit;
} Step;

static inline void divided(float *x, const float *divisors, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float quotient = x[i] / divisors[i];
        x[i] = divisors[i] == 0 ? 0.0f : quotient;
    }
}

static __attribute__((noinline)) void stepped(const Step *step, float *x, int64_t start, int m) {
    if (step->divisors) {
        divided(x, step->divisors + start, m);
    } else if (!step->drops) {
        uint32_t low = bits_of(step->low), high = bits_of(step->high);
        int lows = step->low_last < start ? 0 : step->low_last - start >= m ? m : (int)(step->low_last - start + 1);
        int highs = step->high_last < start ? 0 : step->high_last - start >= m ? m : (int)(step->high_last - start + 1);
        int cuts[4] = {0, lows < highs ? lows : highs, lows < highs ? highs : lows, m};
        for (int c = 0; c < 3; c++) { /* between two cuts all that is equal to an end is treated alike */
            uint32_t first = low + (cuts[c] >= lows), last = high + (cuts[c] >= highs);
            for (int i = cuts[c]; i < cuts[c + 1]; i++) {
                uint32_t u = bits_of(x[i]) & 0x7FFFFFFFu;
                float kept = u >= last ? x[i] - x[i] : x[i]; /* not a number where it is infinite */
                x[i] = u >= first ? kept : 0.0f;
            }
        }
    } else {
        thinned(x, step->key, step->at + start, step->below, step->factor, m);
    }
    float most = step->limit, least = -most;
    if (most < INFINITY)
        for (int i = 0; i < m; i++) {
            float below = x[i] > most ? most : x[i];
            x[i] = below < least ? least : below;
        }
}

/* out = base + scale * the combination of k changes, as `added`; where base is NULL, of k tensors, as `rounded`. The combination is the sum
   of factor * change, or, if `elects`, that of `elect`. steps: one for each change, or NULL. room: for k * CHUNK. */
int merged(const uint16_t *base, const uint16_t *const *tuned, const float *factors, int k, float scale, const Step *steps, int elects,
           int equal, float least, float *room, uint16_t *out, int64_t n) {
    float *rows[k];
    int bad = 0;
    for (int r = 0; r < k; r++) rows[r] = room + r * CHUNK;
    for (int64_t start = 0; start < n; start += CHUNK) {
        int m = (int)(n - start < CHUNK ? n - start : CHUNK);
        if (!steps && !elects)
            sum_of(base, tuned, factors, k, scale, start, m, room);
        else {
            for (int r = 0; r < k; r++) {
                changed(base, tuned[r], start, m, rows[r]);
                if (steps) stepped(steps + r, rows[r], start, m);
            }
            if (elects)
                elect(rows, k, factors, equal, least, m);
            else
                total(rows, factors, k, m);
            if (scale != 1)
                for (int i = 0; i < m; i++) room[i] *= scale;
        }
        bad |= base ? added(base + start, room, out + start, m) : rounded(room, out + start, m);
    }
    return bad;
}

/* rows[0] = the mean of coef * row over the rows whose magnitude is above `least` there, 0 where none is. boosts: a factor for each row where it
   is the only one, or NULL. */
void averaged(float *const *rows, const float *coefs, const float *boosts, int k, float least, int64_t n) {
    float number[CHUNK], sum[CHUNK];
    for (int64_t start = 0; start < n; start += CHUNK) {
        int m = (int)(n - start < CHUNK ? n - start : CHUNK);
        for (int i = 0; i < m; i++) number[i] = sum[i] = 0;
        for (int r = 0; r < k; r++)
            for (int i = 0; i < m; i++) number[i] += fabsf(rows[r][start + i]) > least ? 1.0f : 0.0f;
        for (int r = 0; r < k; r++) {
            const float *x = rows[r] + start;
            float c = coefs[r], boost = boosts ? boosts[r] : 1.0f;
            for (int i = 0; i < m; i++) {
                float own = x[i] * c * (fabsf(x[i]) > least ? 1.0f : 0.0f);
                sum[i] += own * (number[i] == 1 ? boost : 1.0f);
            }
        }
        for (int i = 0; i < m; i++) rows[0][start + i] = sum[i] / (number[i] < 1 ? 1.0f : number[i]);
    }
}

/* The exponential of x <= 0, to about one unit in the last place: x = n log 2 + r, and the series of exp(r). */
static inline float exp_of(float x) {
    x = x < -87.0f ? -87.0f : x;
    float n = rintf(x * 1.442695041f), r = fmaf(n, -0.6931471806f, x), y = 1.0f / 5040;
    r = fmaf(n, 1.9046542e-9f, r); /* what 0.6931471806f is too large by */
    y = fmaf(y, r, 1.0f / 720), y = fmaf(y, r, 1.0f / 120), y = fmaf(y, r, 1.0f / 24), y = fmaf(y, r, 1.0f / 6), y = fmaf(y, r, 0.5f);
    y = fmaf(y, r, 1.0f), y = fmaf(y, r, 1.0f);
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return y * power;
}

/* The logarithm of a positive number, neither subnormal nor infinite: of its exponent, and 2 artanh((m - 1) / (m + 1)) of its mantissa m. */
static inline float log_of(float x) {
    uint32_t bits = bits_of(x) - 0x3F3504F3u; /* m lies in [1 / sqrt 2, sqrt 2) */
    float e = (float)((int32_t)bits >> 23), m;
    bits = (bits & 0x007FFFFFu) + 0x3F3504F3u;
    memcpy(&m, &bits, 4);
    float s = (m - 1) / (m + 1), t = s * s, y = 1.0f / 11;
    y = fmaf(y, t, 1.0f / 9), y = fmaf(y, t, 1.0f / 7), y = fmaf(y, t, 0.2f), y = fmaf(y, t, 1.0f / 3), y = fmaf(y, t, 1.0f);
    return fmaf(e, 0.6931471806f, 2 * s * y);
}

static float most_of(const float *x, int64_t n) {
    int32_t most = INT32_MIN; /* bits in the order of numbers: those of negative ones are turned */
    for (int64_t i = 0; i < n; i++) {
        int32_t b = (int32_t)bits_of(x[i]);
        b ^= (b >> 31) & 0x7FFFFFFF;
        most = b > most ? b : most;
    }
    most ^= (most >> 31) & 0x7FFFFFFF;
    float found;
    memcpy(&found, &most, 4);
    return found;
}

static double exponentials(const float *x, int64_t n, float *out) {
    double lanes[LANES] = {0}, sum = 0;
    float most = most_of(x, n);
    for (int64_t i = 0; i < n; i++) out[i] = exp_of(x[i] - most);
    for (int64_t i = 0; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) lanes[l] += out[i + l];
    for (int l = 0; l < LANES; l++) sum += lanes[l];
    for (int64_t i = n / LANES * LANES; i < n; i++) sum += out[i];
    return sum;
}

/* One row of n: KL(softmax(second) || softmax(first)), `tiny` added to every probability; never below 0. room: for 2 n. */
static float diverged(const float *first, const float *second, int64_t n, float tiny, float *room) {
    float *p = room + n, *q = room;
    float a = (float)(1 / exponentials(first, n, q)), b = (float)(1 / exponentials(second, n, p));
    double lanes[LANES] = {0}, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        float x = fmaf(p[i], b, tiny), y = fmaf(q[i], a, tiny);
        p[i] = x * log_of(x / y);
    }
    for (int64_t i = 0; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) lanes[l] += p[i + l];
    for (int l = 0; l < LANES; l++) sum += lanes[l];
    for (int64_t i = n / LANES * LANES; i < n; i++) sum += p[i];
    return sum < 0 ? 0.0f : (float)sum;
}

void divergence(const float *first, const float *second, int64_t rows, int64_t n, float tiny, float *room, float *out) {
    for (int64_t r = 0; r < rows; r++) out[r] = diverged(first + r * n, second + r * n, n, tiny, room);
}

/* The same of tensors that are stored. room: for 4 n. */
void divergence_stored(const uint16_t *first, const uint16_t *second, int64_t rows, int64_t n, float tiny, float *room, float *out) {
    float *x = room + 2 * n, *y = room + 3 * n;
    for (int64_t r = 0; r < rows; r++, first += n, second += n) {
        for (int64_t i = 0; i < n; i++) x[i] = wide(first[i]), y[i] = wide(second[i]);
        out[r] = diverged(x, y, n, tiny, room);
    }
}

/* out = |second - first| times the number of its row; rows have `width` entries, and what is given begins at entry `start`. */
void weighed(const float *first, const float *second, const float *of_row, int64_t width, int64_t start, float *out, int64_t n) {
    for (int64_t i = 0; i < n;) {
        int64_t row = (start + i) / width, stop = (row + 1) * width - start;
        float weight = of_row[row];
        for (stop = stop < n ? stop : n; i < stop; i++) out[i] = fabsf(second[i] - first[i]) * weight;
    }
}

/* As `weighed`, of tensors that are stored. */
void weighed_stored(const uint16_t *first, const uint16_t *second, const float *of_row, int64_t width, int64_t start, float *out, int64_t n) {
    for (int64_t i = 0; i < n;) {
        int64_t row = (start + i) / width, stop = (row + 1) * width - start;
        float weight = of_row[row];
        for (stop = stop < n ? stop : n; i < stop; i++) out[i] = fabsf(wide(second[i]) - wide(first[i])) * weight;
    }
}

/* first = second where what `weighed` says is at least `least`. */
void chosen(float *first, const float *second, const float *of_row, int64_t width, int64_t start, float least, int64_t n) {
    for (int64_t i = 0; i < n;) {
        int64_t row = (start + i) / width, stop = (row + 1) * width - start;
        float weight = of_row[row];
        for (stop = stop < n ? stop : n; i < stop; i++) first[i] = fabsf(second[i] - first[i]) * weight >= least ? second[i] : first[i];
    }
}

/* out = the mean over k rows of the squares around their mean, of m <= CHUNK entries from `start` on. */
static inline void variance_at(float *const *rows, int k, int64_t start, int m, float *out) {
    float mean[CHUNK];
    for (int i = 0; i < m; i++) mean[i] = out[i] = 0;
    for (int r = 0; r < k; r++)
        for (int i = 0; i < m; i++) mean[i] += rows[r][start + i];
    for (int i = 0; i < m; i++) mean[i] /= (float)k;
    for (int r = 0; r < k; r++)
        for (int i = 0; i < m; i++) {
            float away = rows[r][start + i] - mean[i];
            out[i] += away * away;
        }
    for (int i = 0; i < m; i++) out[i] /= (float)k;
}

void variance(float *const *rows, int k, float *out, int64_t n) {
    for (int64_t start = 0; start < n; start += CHUNK) variance_at(rows, k, start, (int)(n - start < CHUNK ? n - start : CHUNK), out + start);
}

/* Zero in all rows where their variance is below `least`, or equal to it after index `last`. */
void select_varied(float *const *rows, int k, float least, int64_t last, int64_t n) {
    float found[CHUNK];
    for (int64_t start = 0; start < n; start += CHUNK) {
        int m = (int)(n - start < CHUNK ? n - start : CHUNK), ties = last < start ? 0 : last - start >= m ? m : (int)(last - start + 1);
        variance_at(rows, k, start, m, found);
        for (int r = 0; r < k; r++) {
            float *x = rows[r] + start;
            for (int i = 0; i < ties; i++) x[i] = found[i] >= least ? x[i] : 0.0f;
            for (int i = ties; i < m; i++) x[i] = found[i] > least ? x[i] : 0.0f;
        }
    }
}

/* rows[0] = mean, by weight, of the rows whose sign is that of their sum; 0 where none has it. least: what 0 is divided by. */
void erase(float *const *rows, int k, const float *weights, float least, int64_t n) {
    float sign[CHUNK], sum[CHUNK], weight[CHUNK];
    for (int64_t start = 0; start < n; start += CHUNK) {
        int m = (int)(n - start < CHUNK ? n - start : CHUNK);
        for (int i = 0; i < m; i++) sign[i] = rows[0][start + i], sum[i] = weight[i] = 0;
        for (int r = 1; r < k; r++)
            for (int i = 0; i < m; i++) sign[i] += rows[r][start + i];
        for (int r = 0; r < k; r++) {
            const float *x = rows[r] + start;
            float own = weights[r];
            for (int i = 0; i < m; i++) {
                int agrees = ((x[i] > 0) & (sign[i] > 0)) | ((x[i] < 0) & (sign[i] < 0));
                weight[i] += agrees ? own : 0.0f;
                sum[i] += agrees ? x[i] * own : 0.0f;
            }
        }
        for (int i = 0; i < m; i++) rows[0][start + i] = sum[i] / (weight[i] < least ? least : weight[i]);
    }
}

/* The entries of a row from the smallest magnitude to the largest, equal ones in their order: the place of each in the low half of what is
   returned, a part of `work`, which has room for 2 n. A radix sort of the magnitudes' bits. */
static const uint64_t *ordered(const float *row, int64_t n, uint64_t *work) {
    uint64_t *from = work, *to = work + n;
    uint32_t counts[4][256] = {{0}};
    for (int64_t i = 0; i < n; i++) {
        uint32_t key;
        memcpy(&key, row + i, 4);
        key &= 0x7FFFFFFFu;
        from[i] = (uint64_t)key << 32 | (uint64_t)i;
        counts[0][key & 255]++, counts[1][key >> 8 & 255]++, counts[2][key >> 16 & 255]++, counts[3][key >> 24]++;
    }
    for (int d = 0; d < 4; d++) {
        uint32_t *count = counts[d], before = 0;
        int shift = 32 + 8 * d;
        if (count[from[0] >> shift & 255] == n) continue; /* all alike, as the low bits of differences of bfloat16 often are */
        for (int b = 0; b < 256; b++) {
            uint32_t here = count[b];
            count[b] = before;
            before += here;
        }
        for (int64_t i = 0; i < n; i++) to[count[from[i] >> shift & 255]++] = from[i];
        uint64_t *swap = from;
        from = to, to = swap;
    }
    return from;
}

/* divisors: for each entry of a row of n the probability to be kept, min(1, low + slope * its rank / (n - 1)), or 1 unless `rescale`; 0 where it
   is not kept. draws: 32 bits for each entry. work, keep: room for 2 n. */
void thinning(const float *values, int64_t rows, int64_t n, const uint32_t *draws, float low, float slope, int rescale, uint64_t *work,
              float *keep, float *divisors) {
    float *own = keep + n; /* the probabilities by rank, and those of a row's entries */
    for (int64_t rank = 0; rank < n; rank++) {
        float share = n > 1 ? (float)rank / (float)(n - 1) : 0.5f, p = low + slope * share;
        keep[rank] = p > 1 ? 1 : p;
    }
    for (int64_t r = 0; r < rows; r++, values += n, draws += n, divisors += n) {
        const uint64_t *order = ordered(values, n, work);
        for (int64_t rank = 0; rank < n; rank++) own[(uint32_t)order[rank]] = keep[rank];
        for (int64_t i = 0; i < n; i++) {
            float divisor = rescale ? own[i] : 1.0f;
            divisors[i] = (float)(draws[i] >> 8) * 0x1p-24f < own[i] ? divisor : 0.0f;
        }
    }
}

/* x / divisor, zero where that is. */
void divide(float *x, const float *divisors, int64_t n) { divided(x, divisors, n); }
