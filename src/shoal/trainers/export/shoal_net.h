/* The layers of a neural network, one observation at a time, and the draw of an action.
 *
 * `shoal export RUN --format c` writes a policy as calls of these functions and plain loops. The
 * file also serves a network that is written by hand.
 *
 * Rules:
 * - No allocation, no globals, no clock. Each function gets the memory that it writes.
 * - The same file compiles as C11, as C++ and for wasm32. Of a C library it needs memcpy and a few
 *   of the float functions that shoal_env.h names.
 * - Sums run along the outputs of a layer, never along its inputs. So a compiler uses vector
 *   instructions without being allowed to reorder sums (-ffast-math), and each build adds the same
 *   numbers in the same order.
 * - Weights of a linear layer are packed: blocks of NET_BLOCK outputs, then blocks of NET_NARROW,
 *   the last of which is padded with zeros. A block holds its outputs' weights of the first input,
 *   then of the second, and so on: the layer reads its weights once, from front to back.
 * - Pictures are channels first.
 */
#ifndef SHOAL_NET_H
#define SHOAL_NET_H

#include <stddef.h>
#include <stdint.h>

#if defined(__wasm__) && !defined(__wasi__) && !defined(__EMSCRIPTEN__)
/* No C library: memcpy is the compiler's, the math is imported from the host; as in shoal_env.h. */
#ifndef SHOAL_ENV_H
#ifdef __cplusplus
extern "C" {
#endif
void *memcpy(void *to, const void *from, size_t count);
float sqrtf(float), logf(float), cosf(float), powf(float, float);
float fabsf(float), floorf(float), ceilf(float), fmodf(float, float);
#ifdef __cplusplus
}
#endif
#endif
#else
#include <math.h>
#include <string.h>
#endif

#ifdef __cplusplus
#define NET_RESTRICT __restrict__
#else
#define NET_RESTRICT restrict
#endif
#define NET_FN static inline

enum { NET_BLOCK = 32, NET_NARROW = 8 };

/* -- functions of one number ------------------------------------------------------------------- */

/* exp(x) = 2^n (1 + p), with p = e^r - 1 for the rest r = x - n log 2, |r| <= log(2)/2: Taylor's
 * series to r^7, whose next term is below 6e-9. Without branches, so that loops are vectorised. */
NET_FN float net_exp_parts(float x, float *scale) {
    float rounded, r, p;
    uint32_t bits;
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    rounded = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the last bits hold the integer */
    memcpy(&bits, &rounded, 4);
    bits = (bits + 127u) << 23;
    memcpy(scale, &bits, 4);
    rounded -= 12582912.0f;
    r = x - rounded * 0.693359375f;
    r = r - rounded * -2.12194440e-4f;
    p = 1.9841270e-4f;
    p = p * r + 1.3888889e-3f;
    p = p * r + 8.3333333e-3f;
    p = p * r + 4.1666667e-2f;
    p = p * r + 0.16666667f;
    p = p * r + 0.5f;
    return p * r * r + r;
}

NET_FN float net_exp(float x) {
    float scale, p = net_exp_parts(x, &scale);
    return scale * p + scale;
}

/* exp(x) - 1, without the cancellation near 0. */
NET_FN float net_expm1(float x) {
    float scale, p = net_exp_parts(x, &scale);
    return scale * p + (scale - 1.0f);
}

/* (1 - e) / (1 + e) with e = exp(-2|x|). */
NET_FN float net_tanh(float x) {
    float size = x < 0.0f ? -x : x, e = net_expm1(-2.0f * size), t = -e / (e + 2.0f);
    return x < 0.0f ? -t : t;
}

NET_FN float net_sigmoid(float x) {
    return 1.0f / (1.0f + net_exp(-x));
}

NET_FN float net_relu(float x) {
    return x < 0.0f ? 0.0f : x;
}

NET_FN float net_silu(float x) {
    return x * net_sigmoid(x);
}

NET_FN float net_elu(float x, float alpha) {
    return x > 0.0f ? x : alpha * net_expm1(x);
}

/* log(1 + x) for x >= -1, exact to a few units in the last place near 0 as well (Kahan). */
NET_FN float net_log1p(float x) {
    float y = 1.0f + x;
    return y == 1.0f ? x : logf(y) * (x / (y - 1.0f));
}

NET_FN float net_softplus(float x) {
    float size = x < 0.0f ? -x : x;
    return (x > 0.0f ? x : 0.0f) + net_log1p(net_exp(-size));
}

/* Abramowitz and Stegun 1964, 7.1.26: an error of at most 1.5e-7. */
NET_FN float net_erf(float x) {
    float size = x < 0.0f ? -x : x, t = 1.0f / (1.0f + 0.3275911f * size);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    p = 1.0f - p * t * net_exp(-size * size);
    return x < 0.0f ? -p : p;
}

NET_FN float net_gelu(float x) {
    return 0.5f * x * (1.0f + net_erf(x * 0.70710678f));
}

NET_FN float net_gelu_tanh(float x) {
    return 0.5f * x * (1.0f + net_tanh(0.79788456f * (x + 0.044715f * x * x * x)));
}

/* To the nearest integer, halves to the even one. */
NET_FN float net_round(float x) {
    float whole = floorf(x), rest = x - whole;
    if (rest > 0.5f || (rest == 0.5f && fmodf(whole, 2.0f) != 0.0f))
        whole += 1.0f;
    return whole;
}

/* -- layers ------------------------------------------------------------------------------------ */

/* Floats of the packed weights of a linear layer. */
NET_FN size_t net_packed(int in, int out) {
    return (size_t)in * (size_t)((out + NET_NARROW - 1) / NET_NARROW * NET_NARROW);
}

/* y = W x + b. `w` is packed; `b` may be NULL, or `y` itself, to which W x is added then. */
NET_FN void net_linear(float *y, const float *x, const float *NET_RESTRICT w, const float *b,
                       int in, int out) {
    int at = 0;
    for (; at + NET_BLOCK <= out; at += NET_BLOCK) {
        float sum[NET_BLOCK];
        for (int k = 0; k < NET_BLOCK; k++)
            sum[k] = b ? b[at + k] : 0.0f;
        int j = 0;
        for (; j + 4 <= in;
             j += 4, w += 4 * NET_BLOCK) { /* an addition to `sum` waits for the last */
            float one = x[j], two = x[j + 1], three = x[j + 2], four = x[j + 3];
            for (int k = 0; k < NET_BLOCK; k++)
                sum[k] += (one * w[k] + two * w[k + NET_BLOCK]) +
                          (three * w[k + 2 * NET_BLOCK] + four * w[k + 3 * NET_BLOCK]);
        }
        for (; j < in; j++, w += NET_BLOCK) {
            float each = x[j];
            for (int k = 0; k < NET_BLOCK; k++)
                sum[k] += each * w[k];
        }
        for (int k = 0; k < NET_BLOCK; k++)
            y[at + k] = sum[k];
    }
    for (; at < out; at += NET_NARROW) {
        int count = out - at < NET_NARROW ? out - at : NET_NARROW;
        float sum[NET_NARROW];
        for (int k = 0; k < NET_NARROW; k++)
            sum[k] = b && k < count ? b[at + k] : 0.0f;
        for (int j = 0; j < in; j++, w += NET_NARROW) {
            float each = x[j];
            for (int k = 0; k < NET_NARROW; k++)
                sum[k] += each * w[k];
        }
        for (int k = 0; k < count; k++)
            y[at + k] = sum[k];
    }
}

/* One of the rows of a table. */
NET_FN void net_embedding(float *y, const float *table, int64_t row, int width) {
    memcpy(y, table + row * width, (size_t)width * sizeof *y);
}

typedef struct {
    int in, high, wide; /* channels, rows and columns of the input */
    int out;            /* channels of the output */
    int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
    int groups;
} net_conv;

NET_FN int net_conv_high(const net_conv *c) {
    return (c->high + 2 * c->pad_h - c->dilation_h * (c->kernel_h - 1) - 1) / c->stride_h + 1;
}

NET_FN int net_conv_wide(const net_conv *c) {
    return (c->wide + 2 * c->pad_w - c->dilation_w * (c->kernel_w - 1) - 1) / c->stride_w + 1;
}

/* A convolution: one linear layer for each group, of the patch around each pixel, whose weights
 * are packed group after group. `patch`: (in * kernel_h * kernel_w + out) / groups floats. */
NET_FN void net_conv2d(float *y, const float *x, const float *w, const float *b, const net_conv *c,
                       float *patch) {
    int in = c->in / c->groups, out = c->out / c->groups;
    int high = net_conv_high(c), wide = net_conv_wide(c), size = in * c->kernel_h * c->kernel_w;
    float *pixel = patch + size;
    for (int g = 0; g < c->groups; g++, w += net_packed(size, out)) {
        const float *seen = x + (size_t)g * in * c->high * c->wide;
        float *made = y + (size_t)g * out * high * wide;
        for (int i = 0; i < high; i++) {
            for (int j = 0; j < wide; j++) {
                float *to = patch;
                for (int k = 0; k < in; k++) {
                    for (int u = 0; u < c->kernel_h; u++) {
                        int row = i * c->stride_h - c->pad_h + u * c->dilation_h;
                        int there = row >= 0 && row < c->high;
                        const float *line =
                            seen + ((size_t)k * c->high + (there ? row : 0)) * c->wide;
                        for (int v = 0; v < c->kernel_w; v++) {
                            int column = j * c->stride_w - c->pad_w + v * c->dilation_w;
                            *to++ = there && column >= 0 && column < c->wide ? line[column] : 0.0f;
                        }
                    }
                }
                net_linear(pixel, patch, w, b ? b + g * out : NULL, size, out);
                for (int k = 0; k < out; k++)
                    made[((size_t)k * high + i) * wide + j] = pixel[k];
            }
        }
    }
}

/* The largest of each window of each channel (of `in`); what lies outside is never the largest. */
NET_FN void net_max_pool2d(float *y, const float *x, const net_conv *c) {
    int high = net_conv_high(c), wide = net_conv_wide(c);
    for (int k = 0; k < c->in; k++) {
        for (int i = 0; i < high; i++) {
            for (int j = 0; j < wide; j++) {
                float most = -__builtin_inff();
                for (int u = 0; u < c->kernel_h; u++) {
                    for (int v = 0; v < c->kernel_w; v++) {
                        int row = i * c->stride_h - c->pad_h + u * c->dilation_h;
                        int column = j * c->stride_w - c->pad_w + v * c->dilation_w;
                        if (row >= 0 && row < c->high && column >= 0 && column < c->wide) {
                            float each = x[((size_t)k * c->high + row) * c->wide + column];
                            most = each > most ? each : most;
                        }
                    }
                }
                *y++ = most;
            }
        }
    }
}

/* Max-pool over entities: the largest number of each column of `rows` rows. */
NET_FN void net_max_rows(float *y, const float *x, int rows, int columns) {
    memcpy(y, x, (size_t)columns * sizeof *y);
    for (int i = 1; i < rows; i++)
        for (int j = 0; j < columns; j++)
            y[j] = x[i * columns + j] > y[j] ? x[i * columns + j] : y[j];
}

/* Mean 0 and variance 1, then scaled and moved; `weight` and `bias` may be NULL. */
NET_FN void net_layer_norm(float *y, const float *x, const float *weight, const float *bias,
                           float epsilon, int size) {
    float mean = 0.0f, variance = 0.0f, scale;
    for (int k = 0; k < size; k++)
        mean += x[k];
    mean /= (float)size;
    for (int k = 0; k < size; k++)
        variance += (x[k] - mean) * (x[k] - mean);
    scale = 1.0f / sqrtf(variance / (float)size + epsilon);
    for (int k = 0; k < size; k++)
        y[k] = (x[k] - mean) * scale * (weight ? weight[k] : 1.0f) + (bias ? bias[k] : 0.0f);
}

/* Probabilities that sum to 1. */
NET_FN void net_softmax(float *y, const float *x, int size) {
    float most = x[0], sum = 0.0f;
    for (int k = 1; k < size; k++)
        most = x[k] > most ? x[k] : most;
    for (int k = 0; k < size; k++)
        y[k] = net_exp(x[k] - most);
    for (int k = 0; k < size; k++)
        sum += y[k];
    for (int k = 0; k < size; k++)
        y[k] /= sum;
}

/* -- memory ------------------------------------------------------------------------------------ */

/* The cell of an LSTM. `gates`: what input and hidden state add up to, 4 * size floats: into the
 * cell, forget, new value, out of the cell. `cell` before the step may be `to_cell` itself. */
NET_FN void net_lstm_cell(float *to_hidden, float *to_cell, const float *cell,
                          const float *NET_RESTRICT gates, int size) {
    const float *into = gates, *forget = into + size, *fresh = forget + size, *out = fresh + size;
    for (int k = 0; k < size; k++)
        to_cell[k] = net_sigmoid(forget[k]) * cell[k] + net_sigmoid(into[k]) * net_tanh(fresh[k]);
    for (int k = 0; k < size; k++)
        to_hidden[k] = net_sigmoid(out[k]) * net_tanh(to_cell[k]);
}

/* The cell of a GRU. `x` and `h`: what input and hidden state add, 3 * size floats each: reset,
 * update, new value. */
NET_FN void net_gru_cell(float *to_hidden, const float *hidden, const float *NET_RESTRICT x,
                         const float *NET_RESTRICT h, int size) {
    for (int k = 0; k < size; k++) {
        float reset = net_sigmoid(x[k] + h[k]), update = net_sigmoid(x[size + k] + h[size + k]);
        float fresh = net_tanh(x[2 * size + k] + reset * h[2 * size + k]);
        to_hidden[k] = fresh + update * (hidden[k] - fresh);
    }
}

/* The cell of a MinGRU, of its two linear layers of the input (Feng et al. 2024). */
NET_FN void net_mingru_cell(float *to_hidden, const float *hidden, const float *NET_RESTRICT gate,
                            const float *NET_RESTRICT candidate, int size) {
    for (int k = 0; k < size; k++)
        to_hidden[k] = hidden[k] + net_sigmoid(gate[k]) * (candidate[k] - hidden[k]);
}

/* -- actions ----------------------------------------------------------------------------------- */

/* 32 random bits: splitmix64 (Steele, Lea and Flood, 2014). Any number is a seed. */
NET_FN uint32_t net_bits(uint64_t *random) {
    uint64_t z = (*random += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

/* Uniform from 0 (inclusive) to 1 (exclusive), in steps of 2^-24. */
NET_FN float net_uniform(uint64_t *random) {
    return (float)(net_bits(random) >> 8) * (1.0f / 16777216.0f);
}

/* Mean 0, variance 1 (Box and Muller, 1958). */
NET_FN float net_normal(uint64_t *random) {
    float radius = sqrtf(-2.0f * logf(1.0f - net_uniform(random)));
    return radius * cosf(6.2831853f * net_uniform(random));
}

/* One of `count` categories: the likeliest, or one drawn with the probabilities that the logits
 * give. `mask`: 1 for each legal category; NULL, or no legal one: all are legal. */
NET_FN int net_categorical(const float *logits, const unsigned char *mask, int count,
                           uint64_t *random, int greedy) {
    int best = -1, last = 0;
    float sum = 0.0f, left;
    for (int k = 0; k < count; k++)
        if ((!mask || mask[k]) && (best < 0 || logits[k] > logits[best]))
            best = k;
    if (best < 0)
        return net_categorical(logits, NULL, count, random, greedy);
    if (greedy)
        return best;
    for (int k = 0; k < count; k++)
        if (!mask || mask[k])
            sum += net_exp(logits[k] - logits[best]);
    left = net_uniform(random) * sum;
    for (int k = 0; k < count; k++) {
        if (mask && !mask[k])
            continue;
        last = k;
        left -= net_exp(logits[k] - logits[best]);
        if (left < 0.0f)
            return k;
    }
    return last; /* rounding */
}

/* A number with this mean and this logarithm of the standard deviation, or the mean; then tanh, if
 * `squash`; then scaled from -1 ... 1 to low ... high; then clipped. Bounds that are infinite scale
 * nothing: `half` is 1 and `middle` 0. */
NET_FN float net_gaussian(float mean, float log_std, int squash, float middle, float half,
                          float low, float high, uint64_t *random, int greedy) {
    float drawn = greedy ? mean : mean + net_exp(log_std) * net_normal(random);
    float scaled = (squash ? net_tanh(drawn) : drawn) * half + middle;
    return scaled < low ? low : scaled > high ? high : scaled;
}

#endif
