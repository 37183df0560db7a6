/* Pong, against a paddle that follows the ball at a limited speed. */
#include "shoal_env.h"

enum { STAY, UP, DOWN };
enum { FRAME_SKIP, POINTS, PADDLE_HEIGHT, PADDLE_SPEED, OPPONENT_SPEED, BALL_SPEED }; /* params */

/* The court, in pixels; y grows downwards. The agent's paddle is on the right. */
#define WIDTH 160.0f
#define HEIGHT 120.0f
#define FACE 10.0f  /* of a paddle: where it meets the ball's centre, from its end of the court */
#define RADIUS 2.0f /* of the ball */
#define STEEPNESS 1.25f /* vertical by horizontal speed, off a paddle's very edge */
#define FASTER 1.05f    /* by each hit */
#define FASTEST 2.0f    /* times the speed of the serve */

typedef struct {
    shoal_rng rng;
    float paddle, opponent; /* their middles */
    float x, y, speed_x, speed_y;
    float reach, paddle_speed, opponent_speed, ball_speed; /* reach: half a paddle and the ball */
    int32_t frame_skip, goal, points, opponent_points;
} State;

SHOAL_FN float clamp(float value, float low, float high) {
    value = value < low ? low : value;
    return value > high ? high : value;
}

SHOAL_FN void observe(const State *s, const shoal_io *io) {
    float *seen = (float *)io->observations;
    const float speed = 1.0f / (s->ball_speed * FASTEST), goal = 1.0f / (float)s->goal;
    seen[0] = s->paddle * (2 / HEIGHT) - 1;
    seen[1] = (WIDTH - FACE - s->x) * (1 / WIDTH);
    seen[2] = (s->y - s->paddle) * (1 / HEIGHT);
    seen[3] = clamp(s->speed_x * speed, -1, 1);
    seen[4] = clamp(s->speed_y * speed / STEEPNESS, -1, 1);
    seen[5] = s->opponent * (2 / HEIGHT) - 1;
    seen[6] = (float)s->points * goal;
    seen[7] = (float)s->opponent_points * goal;
}

/* From the middle line, to either side. */
SHOAL_FN void serve(State *s) {
    const float side = shoal_below(&s->rng, 2) ? 1.0f : -1.0f;
    s->x = WIDTH / 2;
    s->y = shoal_between(&s->rng, HEIGHT / 4, HEIGHT * 3 / 4);
    s->speed_x = side * s->ball_speed;
    s->speed_y = shoal_between(&s->rng, -0.75f, 0.75f) * s->ball_speed;
}

/* The ball is beyond a paddle's face, and was not in the frame before: `from` is the paddle there.
 */
SHOAL_FN int hit(State *s, float from, float face) {
    const float off = (s->y - from) / s->reach;
    float speed = (s->speed_x < 0 ? -s->speed_x : s->speed_x) * FASTER;
    if (off < -1 || off > 1)
        return 0;
    speed = speed > s->ball_speed * FASTEST ? s->ball_speed * FASTEST : speed;
    s->x = 2 * face - s->x;
    s->speed_x = s->speed_x < 0 ? speed : -speed;
    s->speed_y = off * STEEPNESS * speed;
    return 1;
}

SHOAL_FN void init(State *s, const double *params) {
    s->frame_skip = (int32_t)params[FRAME_SKIP];
    s->goal = (int32_t)params[POINTS];
    s->reach = (float)params[PADDLE_HEIGHT] / 2 + RADIUS;
    s->paddle_speed = (float)params[PADDLE_SPEED];
    s->opponent_speed = (float)params[OPPONENT_SPEED];
    s->ball_speed = (float)params[BALL_SPEED];
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    s->paddle = s->opponent = HEIGHT / 2;
    s->points = s->opponent_points = 0;
    serve(s);
    observe(s, io);
}

SHOAL_FN void step(State *s, const shoal_io *io) {
    const int64_t action = *(const int64_t *)io->actions;
    const float move = s->paddle_speed * (float)((action == DOWN) - (action == UP));
    const float low = s->reach - RADIUS, high = HEIGHT - low;
    for (int32_t frame = 0; frame < s->frame_skip; frame++) {
        const float lag = clamp(s->y - s->opponent, -s->opponent_speed, s->opponent_speed);
        float before = s->x;
        s->paddle = clamp(s->paddle + move, low, high);
        s->opponent = clamp(s->opponent + lag, low, high);
        s->x += s->speed_x;
        s->y += s->speed_y;
        if (s->y < RADIUS) {
            s->y = 2 * RADIUS - s->y;
            s->speed_y = -s->speed_y;
        } else if (s->y > HEIGHT - RADIUS) {
            s->y = 2 * (HEIGHT - RADIUS) - s->y;
            s->speed_y = -s->speed_y;
        }
        if (s->x >= FACE && s->x <= WIDTH - FACE)
            continue;
        if (s->x < FACE ? before >= FACE && hit(s, s->opponent, FACE)
                        : before <= WIDTH - FACE && hit(s, s->paddle, WIDTH - FACE))
            continue;
        if (s->x >= 0 && s->x <= WIDTH)
            continue; /* past a paddle, not yet out */
        if (s->x < 0) {
            io->rewards[0] += 1;
            s->points++;
        } else {
            io->rewards[0] -= 1;
            s->opponent_points++;
        }
        if (s->points == s->goal || s->opponent_points == s->goal) {
            s->x = clamp(s->x, 0, WIDTH);
            io->terminated[0] = 1;
            break;
        }
        serve(s);
    }
    observe(s, io);
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    (void)agent;
    values[0] = 0.5f + 0.5f * (float)(s->points - s->opponent_points) / (float)s->goal;
    values[1] = (float)s->points;
    values[2] = (float)s->opponent_points;
}

static void draw(const State *s, shoal_canvas *c) {
    const float tall = 2 * (s->reach - RADIUS);
    shoal_view(c, -4, -20, WIDTH + 8, HEIGHT + 24);
    shoal_rect(c, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT, SHOAL_PANEL)->round = 3;
    for (float y = 5; y < HEIGHT; y += 10)
        shoal_rect(c, WIDTH / 2, y, 1, 5, SHOAL_GRID);
    shoal_number(c, WIDTH / 2 - 20, -9, 12, NULL, s->opponent_points, 0, SHOAL_DANGER);
    shoal_number(c, WIDTH / 2 + 20, -9, 12, NULL, s->points, 0, SHOAL_AGENT);
    shoal_key(c, 1);
    shoal_rect(c, FACE - RADIUS - 2, s->opponent, 4, tall, SHOAL_DANGER)->round = 1.5f;
    shoal_key(c, 2);
    shoal_rect(c, WIDTH - FACE + RADIUS + 2, s->paddle, 4, tall, SHOAL_AGENT)->round = 1.5f;
    shoal_key(c, 3 + s->points + s->opponent_points); /* a serve is another ball: no flight back */
    shoal_circle(c, s->x, s->y, RADIUS, SHOAL_INK);
}

SHOAL_ENV(
        .name = "pong",
        .text = "Return the ball past the other paddle.\n"
                "The court is 160 pixels by 120, and the agent's paddle is on the right. The "
                "opponent's paddle follows the ball, at most as fast as opponent_speed. Where the "
                "ball meets a paddle decides how steeply it leaves, and each hit makes it 5 % "
                "faster, up to twice the speed of the serve. Reward: 1 for a point, -1 for the "
                "opponent's. The game ends when either has enough points.",
        .max_steps = 2000,
        .params = {{.name = "frame_skip",
                    .value = 8,
                    .low = 1,
                    .high = 64,
                    .type = SHOAL_INTEGER,
                    .text = "frames in a step, all with the same action"},
                   {.name = "points",
                    .value = 11,
                    .low = 1,
                    .high = 1000,
                    .type = SHOAL_INTEGER,
                    .text = "points that win the game"},
                   {.name = "paddle_height",
                    .value = 20,
                    .low = 4,
                    .high = 100,
                    .text = "of both paddles, in pixels"},
                   {.name = "paddle_speed",
                    .value = 2,
                    .low = 0.1,
                    .high = 20,
                    .text = "of the agent, in pixels a frame"},
                   {.name = "opponent_speed",
                    .value = 1,
                    .low = 0,
                    .high = 20,
                    .text = "at most, in pixels a frame"},
                   {.name = "ball_speed",
                    .value = 2,
                    .low = 0.1,
                    .high = 4,
                    .text = "across the court at the serve, in pixels a frame"}},
        .observations = {{.name = "court",
                          .type = SHOAL_FLOAT32,
                          .ndim = 1,
                          .shape = {8},
                          .low = -1,
                          .high = 1,
                          .text = "own paddle from the middle; the ball from there: ahead, below; "
                                  "its speed: towards the paddle, down; the opponent's paddle "
                                  "from the middle; points; the opponent's points",
                          .labels = "paddle ahead below speed_x speed_y opponent points "
                                    "opponent_points"}},
        .actions = {{.name = "move",
                     .type = SHOAL_INT64,
                     .low = 0,
                     .high = 2,
                     .text = "of the paddle",
                     .labels = "stay up down",
                     .keys = "- up down"}},
        .logs = {{.name = "score",
                  .text = "1 for a game won to nothing, 0.5 for even, 0 for lost to nothing"},
                 {.name = "points", .text = "won"},
                 {.name = "opponent_points", .text = "lost"}});
