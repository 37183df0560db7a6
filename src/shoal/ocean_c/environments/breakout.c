/* Breakout, by the rules of Atari's arcade game of 1976: six rows of bricks worth 7, 7, 4, 4, 1 and
 * 1; the ball gets faster after 4 and 12 hits of the paddle and at the upper rows; the paddle
 * shrinks to half once the ball has been at the top. */
#include "shoal_env.h"

enum { STAY, LEFT, RIGHT };
enum { FRAME_SKIP, LIVES, PADDLE_WIDTH, PADDLE_SPEED, BALL_SPEED }; /* the parameters */

#define ROWS 6
#define COLUMNS 18
#define BRICKS (ROWS * COLUMNS)
#define MOST_POINTS (COLUMNS * 24)
#define FEATURES 10 /* numbers observed besides the bricks */

/* A brick is 1 wide, so the court is 18 wide; y grows downwards. */
#define WIDTH 18.0f
#define HEIGHT 16.0f
#define TOP 2.0f    /* of the bricks */
#define BRICK 0.5f  /* its height; more than the ball moves in a frame */
#define FLOOR 15.0f /* the paddle's upper edge */
#define RADIUS 0.2f /* of the ball */
#define WALL (TOP + ROWS * BRICK)
#define FASTEST 1.75f /* times the speed of the serve */
#define NEAR 4.0f     /* from the ball: as far aside of the paddle as is told apart */

typedef struct {
    shoal_rng rng;
    float paddle, half; /* its middle, half its width */
    float x, y, speed_x, speed_y;
    float speed; /* of the ball, times that of the serve */
    float full_half, paddle_speed, ball_speed;
    uint32_t bricks[4]; /* bit i % 32 of word i / 32: brick i = row * COLUMNS + column stands */
    int32_t frame_skip, all_lives, lives, left, points, hits;
} State;

SHOAL_FN float clamp(float value, float low, float high) {
    value = value < low ? low : value;
    return value > high ? high : value;
}

SHOAL_FN void observe(const State *s, const shoal_io *io) {
    static const float four[16][4] = {{0, 0, 0, 0}, {1, 0, 0, 0}, {0, 1, 0, 0}, {1, 1, 0, 0},
                                      {0, 0, 1, 0}, {1, 0, 1, 0}, {0, 1, 1, 0}, {1, 1, 1, 0},
                                      {0, 0, 0, 1}, {1, 0, 0, 1}, {0, 1, 0, 1}, {1, 1, 0, 1},
                                      {0, 0, 1, 1}, {1, 0, 1, 1}, {0, 1, 1, 1}, {1, 1, 1, 1}};
    float *seen = (float *)io->observations;
    const float fastest = 1 / (s->ball_speed * FASTEST);
    seen[0] = s->paddle * (2 / WIDTH) - 1;
    seen[1] = s->half / s->full_half;
    seen[2] = s->x * (2 / WIDTH) - 1;
    seen[3] = clamp((s->x - s->paddle) * (1 / NEAR), -1, 1);
    seen[4] = (FLOOR - s->y) * (1 / HEIGHT);
    seen[5] = clamp(s->speed_x * fastest, -1, 1);
    seen[6] = clamp(s->speed_y * fastest, -1, 1);
    seen[7] = s->speed * (1 / FASTEST);
    seen[8] = (float)(s->hits < 12 ? s->hits : 12) * (1 / 12.0f);
    seen[9] = (float)s->lives / (float)s->all_lives;
    for (int i = 0; i < BRICKS / 4; i++)
        memcpy(seen + FEATURES + 4 * i, four[~s->bricks[i / 8] >> (4 * (i % 8)) & 15],
               4 * sizeof(float));
}

/* From the middle of the court, downwards. */
SHOAL_FN void serve(State *s) {
    const float slope = shoal_between(&s->rng, -0.7f, 0.7f);
    s->speed = 1;
    s->hits = 0;
    s->half = s->full_half;
    s->x = shoal_between(&s->rng, WIDTH / 4, WIDTH * 3 / 4);
    s->y = HEIGHT / 2;
    s->speed_x = s->ball_speed * slope;
    s->speed_y = s->ball_speed * sqrtf(1 - slope * slope);
}

SHOAL_FN void go_faster(State *s, float speed) {
    if (speed <= s->speed)
        return;
    s->speed_x *= speed / s->speed;
    s->speed_y *= speed / s->speed;
    s->speed = speed;
}

/* Breaks the brick at a point, if one stands there, and says whether it did. */
SHOAL_FN int strike(State *s, const shoal_io *io, float x, float y) {
    const int32_t row = (int32_t)((y - TOP) * (1 / BRICK)), i = row * COLUMNS + (int32_t)x;
    const int32_t points = 7 - 3 * (row / 2);
    if (y < TOP || y >= WALL || x < 0 || x >= WIDTH || !(s->bricks[i / 32] >> (i % 32) & 1))
        return 0;
    s->bricks[i / 32] &= ~(1u << (i % 32));
    s->left--;
    s->points += points;
    io->rewards[0] += (float)points;
    if (points > 1)
        go_faster(s, points == 7 ? FASTEST : 1.5f);
    return 1;
}

SHOAL_FN void init(State *s, const double *params) {
    s->frame_skip = (int32_t)params[FRAME_SKIP];
    s->all_lives = (int32_t)params[LIVES];
    s->full_half = (float)params[PADDLE_WIDTH] / 2;
    s->paddle_speed = (float)params[PADDLE_SPEED];
    s->ball_speed = (float)params[BALL_SPEED];
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    for (int i = 0; i < 4; i++)
        s->bricks[i] = i < BRICKS / 32 ? 0xFFFFFFFFu : (1u << BRICKS % 32) - 1;
    s->left = BRICKS;
    s->points = 0;
    s->lives = s->all_lives;
    s->paddle = WIDTH / 2;
    serve(s);
    observe(s, io);
}

SHOAL_FN void step(State *s, const shoal_io *io) {
    const int64_t action = *(const int64_t *)io->actions;
    const float move = s->paddle_speed * (float)((action == RIGHT) - (action == LEFT));
    for (int32_t frame = 0; frame < s->frame_skip; frame++) {
        float x = s->x + s->speed_x, y = s->y + s->speed_y;
        const float side = x + (s->speed_x < 0 ? -RADIUS : RADIUS);
        s->paddle = clamp(s->paddle + move, s->half, WIDTH - s->half);
        /* First across, then up or down, each by the edge of the ball that goes ahead. */
        if (side < 0 || side > WIDTH) {
            x = side < 0 ? 2 * RADIUS - x : 2 * (WIDTH - RADIUS) - x;
            s->speed_x = -s->speed_x;
        } else if (s->y < WALL && strike(s, io, side, s->y)) {
            x = s->x;
            s->speed_x = -s->speed_x;
        }
        s->x = x;
        if (y < WALL + RADIUS) {
            if (y < RADIUS) {
                y = 2 * RADIUS - y;
                s->speed_y = -s->speed_y;
                s->half = s->full_half / 2;
            } else if (strike(s, io, x, y + (s->speed_y < 0 ? -RADIUS : RADIUS))) {
                y = s->y;
                s->speed_y = -s->speed_y;
            }
        } else if (y > FLOOR - RADIUS) {
            const float off = (x - s->paddle) / (s->half + RADIUS);
            if (s->y <= FLOOR - RADIUS && off >= -1 && off <= 1) {
                const float speed = s->ball_speed * s->speed;
                y = 2 * (FLOOR - RADIUS) - y;
                s->speed_x = speed * 0.8f * off;
                s->speed_y = -speed * sqrtf(1 - 0.64f * off * off);
                s->hits++;
                go_faster(s, s->hits >= 12 ? 1.5f : s->hits >= 4 ? 1.25f : 1.0f);
            } else if (y > HEIGHT) {
                s->y = HEIGHT;
                if (--s->lives == 0)
                    break;
                serve(s);
                y = s->y;
            }
        }
        s->y = y;
        if (s->left == 0)
            break;
    }
    io->terminated[0] = s->lives == 0 || s->left == 0;
    observe(s, io);
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    (void)agent;
    values[0] = (float)s->points / MOST_POINTS;
    values[1] = (float)s->points;
    values[2] = (float)(BRICKS - s->left);
}

static void draw(const State *s, shoal_canvas *c) {
    static const uint32_t colors[ROWS] = {SHOAL_DANGER, SHOAL_ORANGE, SHOAL_GOAL,
                                          SHOAL_GREEN,  SHOAL_BLUE,   SHOAL_VIOLET};
    shoal_view(c, -0.5f, -0.5f, WIDTH + 1, HEIGHT + 1);
    shoal_rect(c, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT, SHOAL_PANEL)->round = 0.3f;
    shoal_number(c, 2, 1, 0.9f, NULL, s->points, 0, SHOAL_INK);
    for (int32_t i = 1; i < s->lives; i++)
        shoal_circle(c, WIDTH - 0.1f - 0.6f * (float)i, 1, RADIUS, SHOAL_MUTED);
    for (int32_t i = 0; i < BRICKS; i++)
        if (s->bricks[i / 32] >> (i % 32) & 1)
            shoal_rect(c, (float)(i % COLUMNS) + 0.5f, TOP + BRICK * ((float)(i / COLUMNS) + 0.5f),
                       0.92f, BRICK - 0.08f, colors[i / COLUMNS])
                ->round = 0.08f;
    shoal_key(c, 1);
    shoal_rect(c, s->paddle, FLOOR + 0.15f, 2 * s->half, 0.3f, SHOAL_AGENT)->round = 0.12f;
    shoal_key(c, 2 + s->lives); /* each ball is another one: it does not fly back */
    shoal_circle(c, s->x, s->y, RADIUS, SHOAL_INK);
}

SHOAL_ENV(
        .name = "breakout",
        .text =
            "Break all bricks with a ball that a paddle keeps in play.\n"
            "The bricks, 6 rows of 18, are worth 7, 7, 4, 4, 1 and 1 points from the top. Where "
            "the ball meets the paddle decides how it leaves. It gets faster after 4 and 12 hits "
            "and at the upper rows, and at the top of the court the paddle shrinks to half, until "
            "the next ball. Reward: the points. The game ends with the last ball or "
            "the last brick.",
        .max_steps = 4000,
        .params = {{.name = "frame_skip",
                    .value = 4,
                    .low = 1,
                    .high = 64,
                    .type = SHOAL_INTEGER,
                    .text = "frames in a step, all with the same action"},
                   {.name = "lives",
                    .value = 5,
                    .low = 1,
                    .high = 100,
                    .type = SHOAL_INTEGER,
                    .text = "balls"},
                   {.name = "paddle_width",
                    .value = 3,
                    .low = 0.5,
                    .high = 18,
                    .text = "in bricks; the court is 18 wide"},
                   {.name = "paddle_speed",
                    .value = 0.3,
                    .low = 0.01,
                    .high = 5,
                    .text = "in bricks a frame"},
                   {.name = "ball_speed",
                    .value = 0.2,
                    .low = 0.01,
                    .high = 0.25,
                    .text = "at the serve, in bricks a frame; at most 1.75 times this"}},
        .observations =
            {{.name = "court",
              .type = SHOAL_FLOAT32,
              .ndim = 1,
              .shape = {FEATURES + BRICKS},
              .low = -1,
              .high = 1,
              .text = "the paddle: from the middle, its width; the ball: from the middle, "
                      "from the paddle (at most 4 bricks), above it; its speed: to the right, "
                      "down, altogether; hits; "
                      "lives; then 1 for each brick that is broken, row by row from the top"}},
        .actions = {{.name = "move",
                     .type = SHOAL_INT64,
                     .low = 0,
                     .high = 2,
                     .text = "of the paddle",
                     .labels = "stay left right",
                     .keys = "- left right"}},
        .logs = {{.name = "score", .text = "share of all 432 points"},
                 {.name = "points", .text = "of the bricks broken"},
                 {.name = "bricks", .text = "broken"}});
