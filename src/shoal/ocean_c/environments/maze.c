/* Maze: find the way out of a random maze, of which only what is near is seen.
 *
 * Squares with odd row and odd column are rooms, those between two of them may be walls, all others
 * are. A row of walls is one 64-bit number, in which the column c is bit MOST_RADIUS + c and
 * everything outside of the maze is a wall, so that any view is a shift of some rows. */
#include "shoal_env.h"

enum { UP, DOWN, LEFT, RIGHT };      /* the actions; the opposite of d is d ^ 1 */
enum { SIZE, RADIUS, LOOPS, TRAIL }; /* the parameters */
enum { WALLS, GOAL, BEEN };          /* planes of the observation */
enum { MOST_SIZE = 35, MOST_RADIUS = 7, MOST_ROOMS = (MOST_SIZE / 2) * (MOST_SIZE / 2) };

typedef struct {
    shoal_rng rng;
    int32_t size, radius, trail;
    float loops;
    int32_t row, column, goal_row, goal_column;
    int32_t steps, needed, reached;
    uint64_t walls[MOST_SIZE], been[MOST_SIZE];
} State;

SHOAL_FN uint64_t bit(int32_t column) {
    return (uint64_t)1 << (MOST_RADIUS + column);
}

SHOAL_FN int32_t step_down(int32_t way) {
    return (way == DOWN) - (way == UP);
}

SHOAL_FN int32_t step_right(int32_t way) {
    return (way == RIGHT) - (way == LEFT);
}

/* Depth first from a random room into a random neighbour that is still closed, back where there is
 * none: every room is reached, and by one way only. */
SHOAL_FN void carve(State *s) {
    const int32_t n = s->size, rooms = n / 2, first = shoal_below(&s->rng, rooms * rooms);
    int32_t row = first / rooms * 2 + 1, column = first % rooms * 2 + 1;
    uint8_t back[MOST_ROOMS] = {0}; /* of a room: the way to the one it was reached from */
    memset(s->walls, 0xFF, sizeof s->walls);
    s->walls[row] &= ~bit(column);
    for (;;) {
        const int32_t room = row / 2 * rooms + column / 2;
        int32_t count = 0, ways[4], way;
        for (way = 0; way < 4; way++) {
            const int32_t r = row + 2 * step_down(way), c = column + 2 * step_right(way);
            if (r > 0 && r < n && c > 0 && c < n && s->walls[r] & bit(c))
                ways[count++] = way;
        }
        if (!count && room == first)
            break;
        way = count ? ways[shoal_below(&s->rng, count)] : back[room];
        for (int i = 0; i < 2; i++) {
            row += step_down(way), column += step_right(way);
            s->walls[row] &= ~bit(column);
        }
        if (count)
            back[row / 2 * rooms + column / 2] = (uint8_t)(way ^ 1);
    }
}

/* Opens each wall between two rooms with a probability. */
SHOAL_FN void open_loops(State *s) {
    for (int32_t row = 1; row < s->size - 1; row++)
        for (int32_t column = 1 + row % 2; column < s->size - 1; column += 2)
            if (s->walls[row] & bit(column) && shoal_uniform(&s->rng) < s->loops)
                s->walls[row] &= ~bit(column);
}

/* Steps of the shortest way from the agent to the goal: a flood, one square further each time. */
SHOAL_FN int32_t shortest_way(const State *s) {
    uint64_t wet[MOST_SIZE] = {0};
    wet[s->row] = bit(s->column);
    for (int32_t steps = 0;; steps++) {
        uint64_t above = 0;
        if (wet[s->goal_row] & bit(s->goal_column))
            return steps;
        for (int32_t row = 1; row < s->size - 1; row++) {
            const uint64_t here = wet[row];
            wet[row] = (here | here << 1 | here >> 1 | above | wet[row + 1]) & ~s->walls[row];
            above = here;
        }
    }
}

SHOAL_FN void observe(const State *s, const shoal_io *io) {
    const int32_t side = 2 * s->radius + 1, top = s->row - s->radius, left = s->column - s->radius;
    uint8_t *seen = (uint8_t *)io->observations;
    for (int32_t i = 0; i < side; i++) {
        const int32_t row = top + i;
        const int inside = row >= 0 && row < s->size;
        const uint64_t walls = (inside ? s->walls[row] : ~(uint64_t)0) >> (MOST_RADIUS + left);
        const uint64_t been = (inside ? s->been[row] : 0) >> (MOST_RADIUS + left);
        for (int32_t k = 0; k < side; k++) {
            uint8_t *square = seen + i * side + k;
            square[WALLS * side * side] = walls >> k & 1;
            square[GOAL * side * side] = row == s->goal_row && left + k == s->goal_column;
            if (s->trail)
                square[BEEN * side * side] = been >> k & 1;
        }
    }
}

SHOAL_FN void init(State *s, const double *params) {
    s->size = (int32_t)params[SIZE];
    s->radius = (int32_t)params[RADIUS];
    s->loops = (float)params[LOOPS];
    s->trail = params[TRAIL] != 0;
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    const int32_t rooms = s->size / 2, from = shoal_below(&s->rng, rooms * rooms);
    int32_t to = shoal_below(&s->rng, rooms * rooms - 1);
    to += to >= from; /* any other */
    s->row = from / rooms * 2 + 1, s->column = from % rooms * 2 + 1;
    s->goal_row = to / rooms * 2 + 1, s->goal_column = to % rooms * 2 + 1;
    carve(s);
    if (s->loops > 0)
        open_loops(s);
    s->needed = shortest_way(s);
    s->steps = s->reached = 0;
    memset(s->been, 0, sizeof s->been);
    s->been[s->row] |= bit(s->column);
    observe(s, io);
}

SHOAL_FN void step(State *s, const shoal_io *io) {
    const int32_t way = (int32_t)*(const int64_t *)io->actions;
    const int32_t row = s->row + step_down(way), column = s->column + step_right(way);
    if (!(s->walls[row] & bit(column)))
        s->row = row, s->column = column;
    s->been[s->row] |= bit(s->column);
    s->steps++;
    s->reached = s->row == s->goal_row && s->column == s->goal_column;
    io->rewards[0] = (float)s->reached;
    io->terminated[0] = (uint8_t)s->reached;
    observe(s, io);
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    (void)agent;
    values[0] = s->reached ? (float)s->needed / (float)s->steps : 0.0f;
    values[1] = (float)s->reached;
}

static void draw(const State *s, shoal_canvas *c) {
    const int32_t n = s->size, radius = s->radius;
    const float side = (float)(2 * radius + 1);
    shoal_view(c, -0.5f, -0.5f, (float)n, (float)n);
    for (int32_t row = 0; row < n; row++)
        for (int32_t column = 0; column < n; column++) {
            const int32_t down = row - s->row, right = column - s->column;
            const int near =
                down >= -radius && down <= radius && right >= -radius && right <= radius;
            const float x = (float)column, y = (float)row;
            if (s->walls[row] & bit(column))
                shoal_rect(c, x, y, 1.02f, 1.02f, near ? SHOAL_WALL : SHOAL_GRID);
            else if (near)
                shoal_rect(c, x, y, 1.02f, 1.02f, SHOAL_PANEL);
            if (s->been[row] & bit(column))
                shoal_circle(c, x, y, 0.14f, SHOAL_AGENT);
        }
    shoal_rect(c, (float)s->goal_column, (float)s->goal_row, 0.66f, 0.66f, SHOAL_GOAL)->round =
        0.18f;
    shoal_key(c, 1);
    shoal_rect(c, (float)s->column, (float)s->row, side, side, SHOAL_MUTED)->width = 0.1f;
    shoal_key(c, 2);
    shoal_circle(c, (float)s->column, (float)s->row, 0.38f, SHOAL_AGENT);
}

static const char *resolve(const double *params, shoal_spec *spec) {
    const int32_t n = (int32_t)params[SIZE];
    if (n % 2 == 0)
        return "size must be odd: rooms and the walls between them take turns";
    spec->observations[0].shape[0] = params[TRAIL] != 0 ? 3 : 2;
    spec->observations[0].shape[1] = spec->observations[0].shape[2] =
        2 * (int32_t)params[RADIUS] + 1;
    spec->max_steps = 4 * n * n;
    return NULL;
}

SHOAL_ENV(.name = "maze",
          .text =
              "Find the goal in a random maze of which only what is near is seen.\n"
              "There is one way between any two rooms, unless `loops` opens more. Each episode "
              "has a new maze, start and goal. The agent moves by one square, and walls stop "
              "it; it sees the squares around it, even behind walls. Reward: 1 at the goal, "
              "which ends the episode. Time limit: 4 size ^ 2, unless max_steps is given. Speed "
              "is limited by the view, which is written byte by byte.",
          .params = {{.name = "size",
                      .value = 11,
                      .low = 5,
                      .high = MOST_SIZE,
                      .type = SHOAL_INTEGER,
                      .text = "squares of a side, with the walls around it; odd"},
                     {.name = "radius",
                      .value = 3,
                      .low = 1,
                      .high = MOST_RADIUS,
                      .type = SHOAL_INTEGER,
                      .text = "how many squares the agent sees to each side"},
                     {.name = "loops",
                      .value = 0,
                      .low = 0,
                      .high = 1,
                      .text = "share of the walls between rooms that are opened besides"},
                     {.name = "trail",
                      .value = 1,
                      .type = SHOAL_BOOLEAN,
                      .text = "the agent sees where it has been; if not, it must remember"}},
          .observations = {{.name = "view",
                            .type = SHOAL_UINT8,
                            .ndim = 3,
                            .shape = {3, 7, 7},
                            .low = 0,
                            .high = 1,
                            .text = "around the agent, which is in the middle: 1 where there is a "
                                    "wall; at the goal; and, with trail, where it has been"}},
          .actions = {{.name = "move",
                       .type = SHOAL_INT64,
                       .low = 0,
                       .high = 3,
                       .text = "where to go",
                       .labels = "up down left right",
                       .keys = "up down left right"}},
          .logs = {{.name = "score",
                    .text = "how direct the way was: steps needed / taken; 0 if not reached"},
                   {.name = "reached", .text = "1 if the goal was reached"}},
          .resolve = resolve);
