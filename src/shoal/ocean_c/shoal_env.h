/* The contract between an environment, which is one C file, and whatever steps it.
 *
 * An environment includes this file and nothing else, defines a `State`, the functions `init`,
 * `reset`, `step`, `report` and `draw`, and ends with one SHOAL_ENV(...), which exports its table.
 * docs/ocean_author.md explains it by an example; squared.c is a complete environment.
 *
 * Rules:
 * - The state is one block of bytes that may be copied anywhere: no pointers, no allocation, no
 *   globals, no clock. Its first member is `shoal_rng rng`, from which all chance comes.
 * - Everything but `draw` and `resolve` carries SHOAL_FN and uses only memcpy, memset, and the
 * float math named below, so that the same file compiles as C11, as C++20, as CUDA device code and
 * for wasm32. Constant tables are `static const` *inside* a function: device code sees no others.
 * - C++ wants designated initialisers in the order in which the members are declared here.
 */
#ifndef SHOAL_ENV_H
#define SHOAL_ENV_H

#include <stddef.h>
#include <stdint.h>

#if defined(__wasm__) && !defined(__wasi__) && !defined(__EMSCRIPTEN__)
/* No C library: memcpy and memset are the compiler's, the math is imported from the host. */
void *memcpy(void *to, const void *from, size_t count);
void *memset(void *to, int value, size_t count);
float sinf(float), cosf(float), tanf(float), asinf(float), acosf(float), atan2f(float, float);
float sqrtf(float), expf(float), logf(float), powf(float, float), tanhf(float);
float fabsf(float), floorf(float), ceilf(float), fmodf(float, float);
float fminf(float, float), fmaxf(float, float);
double sin(double), cos(double), sqrt(double);
#else
#include <math.h>
#include <string.h>
#endif

#ifdef SHOAL_FN /* profilers keep functions apart */
#elif defined(__CUDACC__)
#define SHOAL_FN static __host__ __device__ inline
#else
#define SHOAL_FN static inline
#endif

#ifdef __cplusplus
#define SHOAL_EXPORT extern "C" __attribute__((visibility("default")))
#define SHOAL_STATIC_ASSERT static_assert
#else
#define SHOAL_EXPORT __attribute__((visibility("default")))
#define SHOAL_STATIC_ASSERT _Static_assert
#endif

#define SHOAL_ABI_VERSION 1
#define SHOAL_INF (__builtin_inf())
#define SHOAL_REQUIRED (__builtin_nan("")) /* a parameter's default: there is none */

/* -- what an environment is given, and what it gives ------------------------------------------- */

/* One environment's rows: one for each of its agents, agent 0 first.
 *
 * Before `reset` and `step` the engine sets rewards, terminated, truncated and respawned to 0,
 * masks and acting to 1. Observations, and action masks where the table declares them, hold
 * anything: each call of `reset` and `step` must write all of them.
 */
typedef struct {
    const void
        *actions;       /* int64_t or float, as the action fields say; `reset` must not read them */
    void *observations; /* like a C struct of the observation fields for each agent */
    float *rewards;
    uint8_t *terminated; /* 1: the agent's episode is over by the rules */
    uint8_t *truncated;  /* 1: it is cut off. Time limits need nothing here: see `max_steps` */
    uint8_t *respawned;  /* 1, besides terminated: the agent is back at once, and the observation
                            begins its next life; otherwise it is gone until the next reset */
    uint8_t *masks;      /* 0: this row is no transition (in a turn-based game: not complete yet) */
    uint8_t *acting;     /* 0: the agent's next action is not used (it is another one's turn) */
    uint8_t
        *action_masks; /* 1 for each legal choice, 0 for others; of all discrete fields in turn */
} shoal_io;

/* An environment's episode is over, and it is reset, when no agent is left: all are terminated or
 * truncated and none has respawned. Rows of agents that are gone are zero; the engine sees to it.
 * An agent whose masks and acting are both 0 after `reset` is absent until the next one. */

/* -- the table --------------------------------------------------------------------------------- */

enum { SHOAL_UINT8 = 1, SHOAL_INT8, SHOAL_INT16, SHOAL_INT32, SHOAL_INT64, SHOAL_FLOAT32 };
enum { SHOAL_REAL = 0, SHOAL_INTEGER, SHOAL_BOOLEAN };

#define SHOAL_MAX_PARAMS 31
#define SHOAL_MAX_FIELDS 15
#define SHOAL_MAX_LOGS 15
#define SHOAL_MAX_NDIM 4

typedef struct {
    const char *name;
    double value;     /* default; SHOAL_REQUIRED: the user must give one */
    double low, high; /* inclusive */
    int32_t type;     /* SHOAL_REAL, SHOAL_INTEGER or SHOAL_BOOLEAN */
    const char *text; /* what it means, its unit */
} shoal_param;

/* An array of an observation or an action. The fields of an observation lie in its row as the
 * members of a C struct would. Actions are either all SHOAL_INT64, each a choice from 0 to `high`
 * (`low` must be 0), or all SHOAL_FLOAT32, within the bounds. */
typedef struct {
    const char *name;
    int32_t type;
    int32_t ndim; /* 0: one number */
    int32_t shape[SHOAL_MAX_NDIM];
    double low, high;           /* inclusive, of all elements, */
    const double *lows, *highs; /* or one for each element, where these are given */
    const char *text;
    const char *labels; /* of the choices (or the elements), separated by spaces, or NULL */
    const char *keys;   /* for playing: a key for each choice, "-" for none: "- left right"; of a
                           float, the pair for low and high: "left/right" */
} shoal_field;

typedef struct {
    const char *name; /* "score", from 0 to 1, should be one */
    const char *text;
} shoal_log;

/* What may depend on parameters. `resolve` gets it as the table has it. */
typedef struct {
    int32_t agents;     /* rows of one environment */
    int32_t max_steps;  /* time limit, by truncation; 0: none. The user's own goes before it */
    int64_t state_size; /* bytes; less than the table's is an error */
    shoal_field observations[SHOAL_MAX_FIELDS + 1];
    shoal_field actions[SHOAL_MAX_FIELDS + 1];
} shoal_spec;

typedef struct shoal_batch shoal_batch;
typedef struct shoal_canvas shoal_canvas;

typedef struct {
    /* Filled in by SHOAL_ENV, and checked when the file is loaded. */
    uint32_t abi_version, table_size, param_size, field_size, spec_size, io_size, canvas_size;
    uint32_t state_align;
    int64_t state_size;
    void (*init)(void *state, const double *params);
    void (*reset)(void *state, const shoal_io *io);
    void (*step_many)(const shoal_batch *batch, int64_t first, int64_t count);
    void (*report)(const void *state, int32_t agent, float *values);
    void (*draw)(const void *state, shoal_canvas *canvas);
    /* Filled in by the author, in this order. */
    const char *name; /* that of the file */
    const char *text; /* the rules, the rewards, when an episode ends; first line: a summary */
    int32_t agents;   /* 0 means 1 */
    int32_t max_steps;
    int32_t action_mask;                      /* 1: `io->action_masks` is written */
    shoal_param params[SHOAL_MAX_PARAMS + 1]; /* unused entries stay zero, here and below */
    shoal_field observations[SHOAL_MAX_FIELDS + 1];
    shoal_field actions[SHOAL_MAX_FIELDS + 1];
    shoal_log logs[SHOAL_MAX_LOGS + 1];
    /* Optional: shapes, agents or sizes that depend on parameters. Returns NULL, or what is wrong.
     */
    const char *(*resolve)(const double *params, shoal_spec *spec);
} shoal_table;

/* Many environments, as `step_many` gets them: environment i is at `states + i * state_stride`, and
 * its rows begin at i times the other strides (bytes), or at `i * agents`. */
struct shoal_batch {
    char *states;
    const char *actions;
    char *observations;
    float *rewards;
    uint8_t *terminated, *truncated, *respawned, *masks, *acting, *action_masks;
    int64_t state_stride, action_stride, observation_stride, mask_stride;
    int64_t agents;
};

SHOAL_FN shoal_io shoal_io_of(const shoal_batch *batch, int64_t i) {
    int64_t row = i * batch->agents;
    shoal_io io;
    io.actions = batch->actions + i * batch->action_stride;
    io.observations = batch->observations + i * batch->observation_stride;
    io.rewards = batch->rewards + row;
    io.terminated = batch->terminated + row;
    io.truncated = batch->truncated + row;
    io.respawned = batch->respawned + row;
    io.masks = batch->masks + row;
    io.acting = batch->acting + row;
    io.action_masks = batch->action_masks + i * batch->mask_stride;
    return io;
}

/* Exports the table of an environment. The author has defined the type `State` and
 *
 *   SHOAL_FN void init(State *s, const double *params)   once for each environment: keep the
 *       parameters (in the table's order) that the others need; the state is zero but for `rng`
 *   SHOAL_FN void reset(State *s, const shoal_io *io)    begin an episode
 *   SHOAL_FN void step(State *s, const shoal_io *io)     one step of all agents
 *   SHOAL_FN void report(const State *s, int32_t agent, float *values)   the log fields of an
 *       agent whose episode has just ended, before the reset
 *   static void draw(const State *s, shoal_canvas *canvas)
 *
 * The loop over environments is made here, so that the compiler puts `step` inside it. */
#define SHOAL_ENV(...)                                                                             \
    SHOAL_STATIC_ASSERT(offsetof(State, rng) == 0 &&                                               \
                            sizeof(((State *)0)->rng) == sizeof(shoal_rng),                        \
                        "the first member of State must be: shoal_rng rng;");                      \
    static void shoal_init(void *state, const double *params) {                                    \
        init((State *)state, params);                                                              \
    }                                                                                              \
    static void shoal_reset(void *state, const shoal_io *io) {                                     \
        reset((State *)state, io);                                                                 \
    }                                                                                              \
    static void shoal_step_many(const shoal_batch *batch, int64_t first, int64_t count) {          \
        shoal_batch b = *batch;                                                                    \
        for (int64_t i = first; i < first + count; i++) {                                          \
            shoal_io io = shoal_io_of(&b, i);                                                      \
            step((State *)(b.states + i * b.state_stride), &io);                                   \
        }                                                                                          \
    }                                                                                              \
    static void shoal_report(const void *state, int32_t agent, float *values) {                    \
        report((const State *)state, agent, values);                                               \
    }                                                                                              \
    static void shoal_draw(const void *state, shoal_canvas *canvas) {                              \
        draw((const State *)state, canvas);                                                        \
    }                                                                                              \
    SHOAL_KERNELS SHOAL_MARK SHOAL_EXPORT const shoal_table shoal_env_table = {                    \
        .abi_version = SHOAL_ABI_VERSION,                                                          \
        .table_size = sizeof(shoal_table),                                                         \
        .param_size = sizeof(shoal_param),                                                         \
        .field_size = sizeof(shoal_field),                                                         \
        .spec_size = sizeof(shoal_spec),                                                           \
        .io_size = sizeof(shoal_io),                                                               \
        .canvas_size = sizeof(shoal_canvas),                                                       \
        .state_align = SHOAL_ALIGNOF(State),                                                       \
        .state_size = sizeof(State),                                                               \
        .init = shoal_init,                                                                        \
        .reset = shoal_reset,                                                                      \
        .step_many = shoal_step_many,                                                              \
        .report = shoal_report,                                                                    \
        .draw = shoal_draw,                                                                        \
        __VA_ARGS__}

#ifdef __cplusplus
#define SHOAL_ALIGNOF(type) alignof(type)
#else
#define SHOAL_ALIGNOF(type) _Alignof(type)
#endif

#ifdef SHOAL_DEBUG /* tells the engine to check every step; `shoal build --debug` defines it */
#define SHOAL_MARK SHOAL_EXPORT const int32_t shoal_env_debug = 1;
#else
#define SHOAL_MARK
#endif

#ifdef __CUDACC__ /* one thread for each environment */
#define SHOAL_KERNELS                                                                              \
    extern "C" __global__ void shoal_init_kernel(char *states, int64_t stride,                     \
                                                 const double *params, int64_t count) {            \
        int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;                                \
        if (i < count)                                                                             \
            init((State *)(states + i * stride), params);                                          \
    }                                                                                              \
    extern "C" __global__ void shoal_reset_kernel(shoal_batch batch, int64_t count) {              \
        int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;                                \
        if (i >= count)                                                                            \
            return;                                                                                \
        shoal_io io = shoal_io_of(&batch, i);                                                      \
        reset((State *)(batch.states + i * batch.state_stride), &io);                              \
    }                                                                                              \
    extern "C" __global__ void shoal_step_kernel(shoal_batch batch, int64_t count) {               \
        int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;                                \
        if (i >= count)                                                                            \
            return;                                                                                \
        shoal_io io = shoal_io_of(&batch, i);                                                      \
        step((State *)(batch.states + i * batch.state_stride), &io);                               \
    }                                                                                              \
    extern "C" __global__ void shoal_report_kernel(const char *states, int64_t stride,             \
                                                   int64_t count, int32_t agents, int32_t fields,  \
                                                   float *values) {                                \
        int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;                                \
        if (i < count * agents)                                                                    \
            report((const State *)(states + i / agents * stride), (int32_t)(i % agents),           \
                   values + i * fields);                                                           \
    }
#else
#define SHOAL_KERNELS
#endif

/* -- chance ------------------------------------------------------------------------------------ */

/* xoshiro128++ 1.0 (Blackman and Vigna, 2019): period 2^128 - 1. The engine seeds it by splitmix64
 * (Steele, Lea and Flood, 2014), so that seeds that are near give streams that are not. */
typedef struct {
    uint32_t s[4];
} shoal_rng;

SHOAL_FN void shoal_seed(shoal_rng *rng, uint64_t seed) {
    for (int i = 0; i < 4; i += 2) {
        uint64_t z = (seed += 0x9E3779B97F4A7C15u);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        z ^= z >> 31;
        rng->s[i] = (uint32_t)z;
        rng->s[i + 1] = (uint32_t)(z >> 32);
    }
}

/* 32 random bits. */
SHOAL_FN uint32_t shoal_bits(shoal_rng *rng) {
    uint32_t *s = rng->s, sum = s[0] + s[3], result = ((sum << 7) | (sum >> 25)) + s[0];
    uint32_t shifted = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = (s[3] << 11) | (s[3] >> 21);
    return result;
}

/* An integer from 0 to count - 1, all equally likely (Lemire, 2019); count is at least 1. */
SHOAL_FN int32_t shoal_below(shoal_rng *rng, int32_t count) {
    uint32_t n = (uint32_t)count;
    uint64_t product = (uint64_t)shoal_bits(rng) * n;
    if ((uint32_t)product < n)
        for (uint32_t least = (0u - n) % n; (uint32_t)product < least;)
            product = (uint64_t)shoal_bits(rng) * n;
    return (int32_t)(product >> 32);
}

/* Uniform from 0 (inclusive) to 1 (exclusive), in steps of 2^-24. */
SHOAL_FN float shoal_uniform(shoal_rng *rng) {
    return (float)(shoal_bits(rng) >> 8) * (1.0f / 16777216.0f);
}

/* Uniform from low to high. */
SHOAL_FN float shoal_between(shoal_rng *rng, float low, float high) {
    return low + (high - low) * shoal_uniform(rng);
}

/* Mean 0, variance 1 (Box and Muller, 1958). */
SHOAL_FN float shoal_normal(shoal_rng *rng) {
    float radius = sqrtf(-2.0f * logf(1.0f - shoal_uniform(rng)));
    return radius * cosf(6.2831853f * shoal_uniform(rng));
}

/* x, or the bound that it has passed. (fminf and fmaxf are calls, because of what isn't a number.)
 */
SHOAL_FN float shoal_clamp(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;
}

/* -- mathematics ------------------------------------------------------------------------------- */

/* Sine and cosine of x + turn * pi / 2. The last bits of sinf differ from one C library to another,
 * and with them, soon, an episode. These give the same bits on every processor and in a browser,
 * and err by less than 1e-7 for |x| < 10^4 (Taylor's series in double, after a reduction to
 * [-pi/4, pi/4]). NaN for |x| >= 10^9. */
SHOAL_FN float shoal_wave(float x, int64_t turn) {
    const double y = (double)x;
    if (!(y < 1e9 && y > -1e9))
        return __builtin_nanf("");
    const int64_t n = (int64_t)(y * 0.6366197723675814 + (y < 0 ? -0.5 : 0.5));
    const double r = (y - (double)n * 1.5707963267948966) - (double)n * 6.123233995736766e-17;
    const double q = r * r;
    const double s =
        r + r * q *
                (-1.0 / 6 +
                 q * (1.0 / 120 + q * (-1.0 / 5040 + q * (1.0 / 362880 + q * (-1.0 / 39916800)))));
    const double c =
        1 +
        q * (-0.5 + q * (1.0 / 24 + q * (-1.0 / 720 + q * (1.0 / 40320 + q * (-1.0 / 3628800)))));
    const double value = (n + turn) & 1 ? c : s;
    return (float)((n + turn) & 2 ? -value : value);
}

SHOAL_FN float shoal_sin(float x) {
    return shoal_wave(x, 0);
}

SHOAL_FN float shoal_cos(float x) {
    return shoal_wave(x, 1);
}

/* -- drawing ----------------------------------------------------------------------------------- */

/* `draw` describes the picture as shapes, later ones above earlier ones. Coordinates are the
 * author's own: shoal_view says how much of the world is seen; y grows downwards. Colours are
 * 0xRRGGBBAA; these are the ones that keep all environments' pictures alike: */
#define SHOAL_NIGHT 0x11151CFFu  /* background */
#define SHOAL_PANEL 0x1B2330FFu  /* the floor of a board */
#define SHOAL_GRID 0x2A3546FFu   /* lines, cells that are empty */
#define SHOAL_WALL 0x4A5B73FFu   /* what can't be passed */
#define SHOAL_MUTED 0x8494ABFFu  /* what matters little */
#define SHOAL_INK 0xE8EEF6FFu    /* text */
#define SHOAL_AGENT 0x2EC4B6FFu  /* who acts: teal */
#define SHOAL_GOAL 0xFFC145FFu   /* what is sought: amber */
#define SHOAL_DANGER 0xF25F5CFFu /* what is avoided, opponents: coral */
#define SHOAL_BLUE 0x4D9DE0FFu
#define SHOAL_GREEN 0x7BC86CFFu
#define SHOAL_VIOLET 0x9B7EDEFFu
#define SHOAL_ORANGE 0xF58549FFu
#define SHOAL_PINK 0xEF7BA8FFu

enum { SHOAL_RECT = 1, SHOAL_CIRCLE, SHOAL_LINE, SHOAL_POLYGON, SHOAL_TEXT, SHOAL_PLACE };

typedef struct {
    int32_t kind;
    int32_t key; /* not 0: the same thing in another frame, between which it moves smoothly */
    uint32_t color;
    int32_t first, count; /* polygon: its points; text: its bytes; place: its agent */
    float x, y;           /* centre; line: its beginning; text: its middle */
    float w, h;  /* rectangle: size; circle: w is the radius; line: its end; text: h, height */
    float angle; /* rectangle: radians, clockwise */
    float round; /* rectangle: radius of the corners */
    float width; /* of a line or an outline; 0: filled */
} shoal_shape;

/* The host owns the arrays. What does not fit is left out and counted in `lost`. */
struct shoal_canvas {
    shoal_shape *shapes;
    float *points; /* x, y, x, y, ... */
    char *text;    /* UTF-8 */
    int32_t num_shapes, max_shapes, num_points, max_points, num_text, max_text, lost;
    int32_t key;         /* of the next shape */
    float x, y, w, h;    /* what is seen: left, top, width, height */
    uint32_t background; /* SHOAL_NIGHT, unless `draw` sets it */
};

/* What part of the world is seen: its left upper corner and its size. */
SHOAL_FN void shoal_view(shoal_canvas *c, float x, float y, float w, float h) {
    c->x = x, c->y = y, c->w = w, c->h = h;
}

/* The next shape is thing number `key` (not 0), and moves smoothly from where that was before. */
SHOAL_FN void shoal_key(shoal_canvas *c, int32_t key) {
    c->key = key;
}

SHOAL_FN shoal_shape *shoal_add(shoal_canvas *c, int32_t kind, uint32_t color, float x, float y,
                                float w, float h) {
    shoal_shape *s = &c->shapes[c->num_shapes < c->max_shapes ? c->num_shapes : c->max_shapes - 1];
    if (c->num_shapes < c->max_shapes)
        c->num_shapes++;
    else
        c->lost++;
    memset(s, 0, sizeof *s);
    s->kind = kind, s->key = c->key, s->color = color;
    s->x = x, s->y = y, s->w = w, s->h = h;
    c->key = 0;
    return s; /* for what has no argument: angle, round, width */
}

/* x, y: the centre. */
SHOAL_FN shoal_shape *shoal_rect(shoal_canvas *c, float x, float y, float w, float h,
                                 uint32_t color) {
    return shoal_add(c, SHOAL_RECT, color, x, y, w, h);
}

SHOAL_FN shoal_shape *shoal_circle(shoal_canvas *c, float x, float y, float radius,
                                   uint32_t color) {
    return shoal_add(c, SHOAL_CIRCLE, color, x, y, radius, 0);
}

SHOAL_FN shoal_shape *shoal_line(shoal_canvas *c, float x, float y, float to_x, float to_y,
                                 float width, uint32_t color) {
    shoal_shape *s = shoal_add(c, SHOAL_LINE, color, x, y, to_x, to_y);
    s->width = width;
    return s;
}

/* `points`: x, y of `count` corners. */
SHOAL_FN shoal_shape *shoal_polygon(shoal_canvas *c, const float *points, int32_t count,
                                    uint32_t color) {
    shoal_shape *s = shoal_add(c, SHOAL_POLYGON, color, 0, 0, 0, 0);
    if (c->num_points + count > c->max_points) {
        c->lost++;
        return s;
    }
    memcpy(c->points + 2 * c->num_points, points, sizeof(float) * 2 * (size_t)count);
    s->first = c->num_points, s->count = count;
    c->num_points += count;
    return s;
}

/* x, y: the middle; `height`: of the letters. */
SHOAL_FN shoal_shape *shoal_text(shoal_canvas *c, float x, float y, float height, const char *text,
                                 uint32_t color) {
    shoal_shape *s = shoal_add(c, SHOAL_TEXT, color, x, y, 0, height);
    s->first = c->num_text;
    for (; *text && c->num_text < c->max_text; text++)
        c->text[c->num_text++] = *text;
    s->count = c->num_text - s->first;
    c->lost += *text != 0;
    return s;
}

/* Agent `agent` is here. Nothing is drawn, but on a page a click takes the agent that is nearest,
 * and a ring of this radius is around the one that was taken. */
SHOAL_FN shoal_shape *shoal_place(shoal_canvas *c, int32_t agent, float x, float y, float radius) {
    shoal_shape *s = shoal_add(c, SHOAL_PLACE, SHOAL_INK, x, y, radius, 0);
    s->first = agent;
    return s;
}

/* `label` (or NULL), then a number with `decimals` (0 to 6) places: "score 12", "0.25". */
SHOAL_FN shoal_shape *shoal_number(shoal_canvas *c, float x, float y, float height,
                                   const char *label, double value, int32_t decimals,
                                   uint32_t color) {
    char text[96];
    int at = 95, negative = value < 0, start;
    uint64_t whole, power = 1;
    for (int i = 0; i < decimals; i++)
        power *= 10;
    value = (negative ? -value : value) * (double)power + 0.5;
    whole = value < 1e18 ? (uint64_t)value : (uint64_t)1000000000000000000u;
    text[at] = 0;
    for (int i = 0; whole || i <= decimals; i++) {
        if (i == decimals && decimals)
            text[--at] = '.';
        text[--at] = (char)('0' + whole % 10);
        whole /= 10;
    }
    if (negative)
        text[--at] = '-';
    if (label && *label) {
        int length = 0;
        while (label[length] && length < at - 1)
            length++;
        text[--at] = ' ';
        start = at - length;
        memcpy(text + start, label, (size_t)length);
        at = start;
    }
    return shoal_text(c, x, y, height, text + at, color);
}

#endif
