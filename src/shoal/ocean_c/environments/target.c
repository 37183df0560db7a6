/* Target, the second tutorial: several agents in a plane, who seek goals. After squared.c it shows
 * how rows of agents are written, an observation of several fields, two actions at a time, and
 * shapes that depend on parameters.
 */
#include "shoal_env.h"

enum { STRAIGHT, LEFT, RIGHT };                    /* the first action */
enum { COAST, FASTER, SLOWER };                    /* the second */
enum { NUM_AGENTS, NUM_GOALS, SIZE, GOAL_RADIUS }; /* the parameters, in the table's order */
enum { THING = 3 };                                /* numbers that tell where a thing is */

#define MAX_AGENTS 64
#define MAX_GOALS 32
#define MAX_SPEED 0.3f /* m a step */
#define ACCELERATION 0.05f
#define TURN 0.25f /* radians a step */

/* In metres, or a direction of length 1. y grows downwards, as in pictures. */
typedef struct {
    float x, y;
} Point;

typedef struct {
    Point at, ahead; /* where it is, where it looks */
    float heading;   /* radians, clockwise: the angle of `ahead` */
    float speed;
    Point from; /* where its way to the next goal began */
    float way;  /* the length of all such ways that led to a goal, straight */
    int32_t goals;
} Agent;

typedef struct {
    shoal_rng rng;
    int32_t num_agents, num_goals, steps;
    float size, goal_radius;
    int32_t moved[MAX_GOALS]; /* how often each goal has moved */
    Point goals[MAX_GOALS];
    Agent agents[MAX_AGENTS];
} State;

SHOAL_FN Point anywhere(State *s) {
    Point p;
    p.x = shoal_between(&s->rng, 0, s->size);
    p.y = shoal_between(&s->rng, 0, s->size);
    return p;
}

SHOAL_FN float distance(Point a, Point b) {
    return sqrtf((b.x - a.x) * (b.x - a.x) + (b.y - a.y) * (b.y - a.y));
}

SHOAL_FN void face(Agent *a, float heading) {
    heading -= 6.2831853f * floorf(heading / 6.2831853f + 0.5f); /* one turn, from -pi to pi */
    a->heading = heading;
    a->ahead.x = shoal_cos(heading);
    a->ahead.y = shoal_sin(heading);
}

/* Writes where some things are as an agent sees them, the nearest first: how far ahead and how far
 * to the right they are, of their distance, and the distance, of the plane's diagonal. */
SHOAL_FN void look(const State *s, const Agent *a, const Point *things, int32_t count,
                   float *seen) {
    const float diagonal = s->size * 1.4142136f;
    for (int32_t i = 0; i < count; i++) {
        const float x = things[i].x - a->at.x, y = things[i].y - a->at.y;
        const float away = distance(a->at, things[i]), scale = 1 / (away + 1e-6f);
        const float near = shoal_clamp(away / diagonal, 0, 1);
        int32_t k = i; /* its place: those that are farther make room */
        for (; k > 0 && seen[THING * k - 1] > near; k--)
            memcpy(seen + THING * k, seen + THING * (k - 1), THING * sizeof(float));
        seen[THING * k] = shoal_clamp((x * a->ahead.x + y * a->ahead.y) * scale, -1, 1);
        seen[THING * k + 1] = shoal_clamp((y * a->ahead.x - x * a->ahead.y) * scale, -1, 1);
        seen[THING * k + 2] = near;
    }
}

/* Each agent has a row: its speed, the goals, the other agents. All are floats, so the fields of
 * the table follow each other without a gap. */
SHOAL_FN void observe(const State *s, const shoal_io *io) {
    float *seen = (float *)io->observations;
    for (int32_t i = 0; i < s->num_agents; i++) {
        const Agent *a = &s->agents[i];
        Point others[MAX_AGENTS];
        int32_t count = 0;
        for (int32_t k = 0; k < s->num_agents; k++)
            if (k != i)
                others[count++] = s->agents[k].at;
        *seen++ = a->speed / MAX_SPEED;
        look(s, a, s->goals, s->num_goals, seen);
        seen += THING * s->num_goals;
        look(s, a, others, count, seen);
        seen += THING * count;
    }
}

SHOAL_FN void init(State *s, const double *params) {
    s->num_agents = (int32_t)params[NUM_AGENTS];
    s->num_goals = (int32_t)params[NUM_GOALS];
    s->size = (float)params[SIZE];
    s->goal_radius = (float)params[GOAL_RADIUS];
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    s->steps = 0;
    for (int32_t i = 0; i < s->num_agents; i++) {
        Agent *a = &s->agents[i];
        a->at = a->from = anywhere(s);
        face(a, shoal_between(&s->rng, -3.1415927f, 3.1415927f));
        a->speed = a->way = 0;
        a->goals = 0;
    }
    for (int32_t k = 0; k < s->num_goals; k++) {
        s->goals[k] = anywhere(s);
        s->moved[k] = 0;
    }
    observe(s, io);
}

SHOAL_FN void step(State *s, const shoal_io *io) {
    const int64_t *actions = (const int64_t *)io->actions; /* two for each agent */
    s->steps++;
    for (int32_t i = 0; i < s->num_agents; i++) {
        Agent *a = &s->agents[i];
        const int64_t turn = actions[2 * i], push = actions[2 * i + 1];
        face(a, a->heading + TURN * (float)((turn == RIGHT) - (turn == LEFT)));
        a->speed += ACCELERATION * (float)((push == FASTER) - (push == SLOWER));
        a->speed = shoal_clamp(a->speed, 0, MAX_SPEED);
        a->at.x = shoal_clamp(a->at.x + a->speed * a->ahead.x, 0, s->size);
        a->at.y = shoal_clamp(a->at.y + a->speed * a->ahead.y, 0, s->size);
        for (int32_t k = 0; k < s->num_goals; k++) {
            if (distance(a->at, s->goals[k]) > s->goal_radius)
                continue;
            s->goals[k] = anywhere(s); /* for the agents that move after this one, too */
            s->moved[k]++;
            io->rewards[i] += 1;
            a->goals++;
            a->way += distance(a->from, a->at);
            a->from = a->at;
        }
    }
    observe(s, io);
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    const Agent *a = &s->agents[agent];
    values[0] = shoal_clamp(a->way / (MAX_SPEED * (float)s->steps), 0, 1);
    values[1] = (float)a->goals;
}

static void draw(const State *s, shoal_canvas *c) {
    static const uint32_t colors[6] = {SHOAL_BLUE,   SHOAL_VIOLET, SHOAL_GREEN,
                                       SHOAL_ORANGE, SHOAL_PINK,   SHOAL_DANGER};
    const float margin = 0.04f * s->size, side = s->size + 2 * margin;
    shoal_view(c, -margin, -margin, side, side);
    shoal_rect(c, s->size / 2, s->size / 2, side, side, SHOAL_PANEL)->round = margin;
    for (int32_t k = 0; k < s->num_goals; k++) {
        /* Where a goal has moved, it is drawn as another one, which does not fly there. */
        const int32_t key = 1 + 2 * (k + MAX_GOALS * s->moved[k]);
        shoal_key(c, key + MAX_AGENTS * 4);
        shoal_circle(c, s->goals[k].x, s->goals[k].y, s->goal_radius, SHOAL_GOAL & ~0xBFu);
        shoal_key(c, key + 1 + MAX_AGENTS * 4);
        shoal_circle(c, s->goals[k].x, s->goals[k].y, 0.4f * s->goal_radius, SHOAL_GOAL);
    }
    for (int32_t i = s->num_agents - 1; i >= 0; i--) {
        const Agent *a = &s->agents[i];
        const uint32_t color = i ? colors[(i - 1) % 6] : SHOAL_AGENT;
        const float x = a->ahead.x * 0.3f, y = a->ahead.y * 0.3f;
        shoal_key(c, 1 + 3 * i);
        shoal_line(c, a->at.x - x, a->at.y - y, a->at.x, a->at.y, 0.44f, color);
        shoal_key(c, 2 + 3 * i);
        shoal_line(c, a->at.x, a->at.y, a->at.x + x, a->at.y + y, 0.28f, color);
        shoal_key(c, 3 + 3 * i);
        shoal_circle(c, a->at.x + x, a->at.y + y, 0.09f, SHOAL_INK);
        shoal_key(c, 3 + 3 * i);
        shoal_place(c, i, a->at.x, a->at.y, 0.6f);
    }
}

/* As many rows as there are agents, and observations as long as there are goals and others. */
static const char *resolve(const double *params, shoal_spec *spec) {
    spec->agents = (int32_t)params[NUM_AGENTS];
    spec->observations[1].shape[0] = (int32_t)params[NUM_GOALS];
    spec->observations[2].shape[0] = spec->agents - 1;
    if (spec->agents == 1) /* no others: the list of fields ends before them */
        memset(&spec->observations[2], 0, sizeof spec->observations[2]);
    return NULL;
}

SHOAL_ENV(
        .name = "target",
        .text = "Agents in a plane seek goals, which move away once they are reached.\n"
                "Each agent turns, and goes faster or slower, up to 0.3 m a step; at the border "
                "it slides along. A goal that it touches is at another place at once. Agents move "
                "one after the other and pass through each other, but the first to come has the "
                "goal. Reward: 1 for each goal. The episode ends with the time limit. Speed is "
                "limited by the distances between all things, their square roots and their order.",
        .agents = 8, .max_steps = 256,
        .params = {{.name = "num_agents",
                    .value = 8,
                    .low = 1,
                    .high = MAX_AGENTS,
                    .type = SHOAL_INTEGER,
                    .text = "agents in the same plane"},
                   {.name = "num_goals",
                    .value = 4,
                    .low = 1,
                    .high = MAX_GOALS,
                    .type = SHOAL_INTEGER,
                    .text = "goals, for all agents together"},
                   {.name = "size", .value = 10, .low = 2, .high = 100, .text = "of a side, in m"},
                   {.name = "goal_radius",
                    .value = 0.5,
                    .low = 0.05,
                    .high = 1,
                    .text = "how near an agent must come, in m"}},
        .observations = {{.name = "speed",
                          .type = SHOAL_FLOAT32,
                          .ndim = 1,
                          .shape = {1},
                          .low = 0,
                          .high = 1,
                          .text = "of the highest"},
                         {.name = "goals",
                          .type = SHOAL_FLOAT32,
                          .ndim = 2,
                          .shape = {4, THING},
                          .low = -1,
                          .high = 1,
                          .text =
                              "the nearest first: how far ahead and how far to the right, of its "
                              "distance; the distance, of the diagonal"},
                         {.name = "others",
                          .type = SHOAL_FLOAT32,
                          .ndim = 2,
                          .shape = {7, THING},
                          .low = -1,
                          .high = 1,
                          .text = "the same of the other agents"}},
        .actions = {{.name = "turn",
                     .type = SHOAL_INT64,
                     .low = 0,
                     .high = 2,
                     .text = "by 0.25 radians",
                     .labels = "straight left right",
                     .keys = "- left right"},
                    {.name = "push",
                     .type = SHOAL_INT64,
                     .low = 0,
                     .high = 2,
                     .text = "by 0.05 m a step",
                     .labels = "coast faster slower",
                     .keys = "- up down"}},
        .logs = {{.name = "score",
                  .text = "how direct its ways were: from goal to goal, straight, of the way that "
                          "it could have gone at the highest speed"},
                 {.name = "goals", .text = "reached"}},
        .resolve = resolve);
