/* Snake, with hundreds of snakes on one map.
 *
 * What limits the speed is memory: each snake's view is 11 rows of the map. The map is kept twice,
 * the second time with rows and columns exchanged, so that each row of a view is 11 bytes that lie
 * together, whichever way the snake looks: forwards in one of the two maps, or backwards. */
#include "shoal_env.h"

enum { STRAIGHT, LEFT, RIGHT };                            /* the actions */
enum { NORTH, EAST, SOUTH, WEST };                         /* headings */
enum { EMPTY = 0, FOOD = 1, SOLID = 2, HEAD = SOLID | 4 }; /* cells: a bit for each plane */
enum { NUM_SNAKES, SIZE, NUM_FOOD, MAX_LENGTH };

#define RADIUS 5 /* of a view */
#define SIDE (2 * RADIUS + 1)
#define PLANE (SIDE * SIDE)
#define VIEW (3 * PLANE)
#define FIRST_LENGTH 3
#define WINDOW 48     /* cells of a side of the picture, at most */
#define MOST_DRAWN 64 /* a snake whose tail is farther from the picture is not drawn */

/* A cell in both maps: row * stride + column, column * stride + row. */
typedef struct {
    int32_t at, turned;
} Cell;

typedef struct {
    Cell head, tail;
    int32_t length, growing; /* cells it has; cells that it is to have more, one each step */
    int32_t heading;
    int32_t last_length; /* of the life that ended in this step; 0: none did */
} Snake;

/* Behind it lie the snakes, then three maps of stride * stride bytes: the cells, the same with rows
 * and columns exchanged, and for each cell of a body the heading of the body's next cell. The
 * border is as wide as a view reaches. Free cells are never fewer than half of all. */
typedef struct {
    shoal_rng rng;
    int32_t num_snakes, size, stride, num_food, max_length;
} State;

SHOAL_FN Snake *snakes_of(const State *s) {
    return (Snake *)(s + 1);
}

SHOAL_FN uint8_t *map_of(const State *s) {
    return (uint8_t *)(snakes_of(s) + s->num_snakes);
}

SHOAL_FN void put(const State *s, Cell cell, uint8_t what) {
    uint8_t *map = map_of(s);
    map[cell.at] = what;
    map[s->stride * s->stride + cell.turned] = what;
}

SHOAL_FN Cell ahead(const State *s, Cell cell, int32_t heading) {
    const int32_t down = (heading == SOUTH) - (heading == NORTH);
    const int32_t right = (heading == EAST) - (heading == WEST);
    cell.at += down * s->stride + right;
    cell.turned += right * s->stride + down;
    return cell;
}

/* Half of the cells or more are free, so two tries are enough on average. */
SHOAL_FN Cell empty_cell(State *s) {
    for (;;) {
        const int32_t row = RADIUS + shoal_below(&s->rng, s->size);
        const int32_t column = RADIUS + shoal_below(&s->rng, s->size);
        Cell cell;
        cell.at = row * s->stride + column;
        cell.turned = column * s->stride + row;
        if (map_of(s)[cell.at] == EMPTY)
            return cell;
    }
}

/* The head is there at once, the rest grows out of it. */
SHOAL_FN void spawn(State *s, Snake *snake) {
    snake->head = snake->tail = empty_cell(s);
    snake->heading = shoal_below(&s->rng, 4);
    snake->length = 1;
    snake->growing = FIRST_LENGTH - 1;
    put(s, snake->head, HEAD);
}

SHOAL_FN uint64_t backwards(uint64_t bytes) {
    bytes = (bytes >> 8 & 0x00FF00FF00FF00FFu) | (bytes & 0x00FF00FF00FF00FFu) << 8;
    bytes = (bytes >> 16 & 0x0000FFFF0000FFFFu) | (bytes & 0x0000FFFF0000FFFFu) << 16;
    return bytes >> 32 | bytes << 32;
}

/* What the snake sees, its head in the middle and what is ahead of it above. */
SHOAL_FN void observe(const State *s, const Snake *snake, uint8_t *view) {
    const int32_t sideways = snake->heading == EAST || snake->heading == WEST;
    const int32_t reversed = snake->heading == SOUTH || snake->heading == WEST;
    const int32_t down = snake->heading == NORTH || snake->heading == WEST ? s->stride : -s->stride;
    const uint8_t *row = map_of(s) - RADIUS - RADIUS * down;
    row += sideways ? s->stride * s->stride + snake->head.turned : snake->head.at;
    for (int i = 0; i < SIDE; i++, row += down, view += SIDE) {
        uint64_t first, last; /* 8 of the 11 bytes each: they overlap */
        memcpy(&first, row, 8);
        memcpy(&last, row + SIDE - 8, 8);
        if (reversed) {
            const uint64_t bytes = backwards(first);
            first = backwards(last);
            last = bytes;
        }
        for (int bit = 0; bit < 3; bit++) {
            const uint64_t left = first >> bit & 0x0101010101010101u;
            const uint64_t right = last >> bit & 0x0101010101010101u;
            memcpy(view + bit * PLANE, &left, 8);
            memcpy(view + bit * PLANE + SIDE - 8, &right, 8);
        }
    }
}

SHOAL_FN void init(State *s, const double *params) {
    s->num_snakes = (int32_t)params[NUM_SNAKES];
    s->size = (int32_t)params[SIZE];
    s->stride = s->size + 2 * RADIUS;
    s->num_food = (int32_t)params[NUM_FOOD];
    s->max_length = (int32_t)params[MAX_LENGTH];
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    uint8_t *map = map_of(s), *views = (uint8_t *)io->observations;
    memset(map, SOLID, 2 * (size_t)(s->stride * s->stride));
    for (int turned = 0; turned < 2; turned++, map += s->stride * s->stride)
        for (int32_t row = RADIUS; row < RADIUS + s->size; row++)
            memset(map + row * s->stride + RADIUS, EMPTY, (size_t)s->size);
    for (int32_t i = 0; i < s->num_food; i++)
        put(s, empty_cell(s), FOOD);
    for (int32_t i = 0; i < s->num_snakes; i++) {
        spawn(s, &snakes_of(s)[i]);
        snakes_of(s)[i].last_length = 0;
    }
    for (int32_t i = 0; i < s->num_snakes; i++)
        observe(s, &snakes_of(s)[i], views + i * VIEW);
}

/* The snakes move one after the other. */
SHOAL_FN void step(State *s, const shoal_io *io) {
    const int64_t *actions = (const int64_t *)io->actions;
    uint8_t *map = map_of(s), *headings = map + 2 * s->stride * s->stride;
    uint8_t *views = (uint8_t *)io->observations;
    for (int32_t i = 0; i < s->num_snakes; i++) {
        Snake *snake = &snakes_of(s)[i];
        const int32_t turn = (actions[i] == RIGHT) - (actions[i] == LEFT);
        const int32_t heading = (snake->heading + turn) & 3;
        const Cell next = ahead(s, snake->head, heading);
        const int32_t had = snake->length;
        uint8_t there;
        snake->heading = heading;
        snake->last_length = 0;
        put(s, snake->head, SOLID);
        headings[snake->head.at] = (uint8_t)heading;
        if (snake->growing) {
            snake->growing--;
            snake->length++;
        } else { /* the tail leaves first, so that the head may follow it */
            const Cell tail = snake->tail;
            snake->tail = ahead(s, tail, headings[tail.at]);
            put(s, tail, EMPTY);
        }
        there = map[next.at];
        if (there <= FOOD) {
            snake->head = next;
            put(s, next, HEAD);
            if (there == FOOD) {
                io->rewards[i] = 1;
                snake->growing += snake->length + snake->growing < s->max_length;
                put(s, empty_cell(s), FOOD);
            }
            continue;
        }
        io->rewards[i] = -1;
        io->terminated[i] = io->respawned[i] = 1;
        snake->last_length = had;
        for (int32_t k = 1; k < snake->length; k++) { /* what it still has */
            const Cell tail = snake->tail;
            snake->tail = ahead(s, tail, headings[tail.at]);
            put(s, tail, EMPTY);
        }
        spawn(s, snake);
    }
    for (int32_t i = 0; i < s->num_snakes; i++)
        observe(s, &snakes_of(s)[i], views + i * VIEW);
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    const Snake *snake = &snakes_of(s)[agent];
    const int32_t length = snake->last_length ? snake->last_length : snake->length;
    values[0] = (float)length / (float)s->max_length;
    values[1] = (float)length;
}

/* A map larger than the window is seen around snake 0, which is teal. */
static void draw(const State *s, shoal_canvas *c) {
    static const uint32_t colors[6] = {SHOAL_DANGER, SHOAL_BLUE,  SHOAL_VIOLET,
                                       SHOAL_ORANGE, SHOAL_GREEN, SHOAL_PINK};
    const uint8_t *map = map_of(s), *headings = map + 2 * s->stride * s->stride;
    const int32_t window = s->size < WINDOW ? s->size : WINDOW, last = RADIUS + s->size - window;
    const float size = (float)s->size, middle = RADIUS + size / 2;
    int32_t left = snakes_of(s)->head.at % s->stride - window / 2;
    int32_t top = snakes_of(s)->head.at / s->stride - window / 2;
    left = left < RADIUS ? RADIUS : left > last ? last : left;
    top = top < RADIUS ? RADIUS : top > last ? last : top;
    shoal_view(c, (float)left - 1, (float)top - 1, (float)window + 2, (float)window + 2);
    shoal_rect(c, middle, middle, size + 1, size + 1, SHOAL_WALL)->round = 0.5f;
    shoal_rect(c, middle, middle, size, size, SHOAL_PANEL);
    for (int32_t y = top - 1; y <= top + window; y++)
        for (int32_t x = left - 1; x <= left + window; x++)
            if (map[y * s->stride + x] == FOOD)
                shoal_circle(c, (float)x + 0.5f, (float)y + 0.5f, 0.35f, SHOAL_GOAL);
    for (int32_t i = 0; i < s->num_snakes; i++) {
        const Snake *snake = &snakes_of(s)[i];
        const uint32_t color = i ? colors[i % 6] : SHOAL_AGENT;
        Cell cell = snake->tail;
        float x = (float)(cell.at % s->stride) + 0.5f, y = (float)(cell.at / s->stride) + 0.5f;
        float from_x = x, from_y = y;
        int32_t before = -1;
        if (x + MOST_DRAWN < (float)left || x - MOST_DRAWN > (float)(left + window) ||
            y + MOST_DRAWN < (float)top || y - MOST_DRAWN > (float)(top + window))
            continue;
        for (int32_t k = 1; k < snake->length; k++) { /* a line for each straight piece */
            const int32_t heading = headings[cell.at];
            if (before >= 0 && heading != before) {
                shoal_line(c, from_x, from_y, x, y, 0.7f, color);
                from_x = x, from_y = y;
            }
            x += (float)((heading == EAST) - (heading == WEST));
            y += (float)((heading == SOUTH) - (heading == NORTH));
            cell = ahead(s, cell, heading);
            before = heading;
        }
        shoal_line(c, from_x, from_y, x, y, 0.7f, color);
        shoal_circle(c, x, y, 0.45f, color);
        shoal_circle(c, x, y, 0.18f, SHOAL_INK);
        shoal_place(c, i, x, y, 0.9f);
    }
}

static const char *resolve(const double *params, shoal_spec *spec) {
    const double size = params[SIZE], stride = size + 2 * RADIUS;
    if (2 * (params[NUM_SNAKES] * params[MAX_LENGTH] + params[NUM_FOOD]) > size * size)
        return "num_snakes * max_length + num_food must be at most half of the map's size * size "
               "cells";
    spec->agents = (int32_t)params[NUM_SNAKES];
    spec->state_size = (int64_t)sizeof(State) + spec->agents * (int64_t)sizeof(Snake) +
                       3 * (int64_t)stride * (int64_t)stride;
    return NULL;
}

SHOAL_ENV(.name = "snake",
          .text =
              "Hundreds of snakes eat and grow on one map.\n"
              "Each snake goes forward by one cell a step, and may turn. It grows by a cell "
              "with each food that it eats, up to max_length, and new food appears elsewhere. A "
              "snake that runs into the border or a body, its own or another's, dies and begins "
              "again as a short one. Snakes move one after the other. Reward: 1 for food, -1 "
              "for dying, which ends the snake's episode. Speed is limited by memory: each view "
              "is 121 cells from 11 places of the map.",
          .agents = 256, .max_steps = 1000,
          .params = {{.name = "num_snakes",
                      .value = 256,
                      .low = 1,
                      .high = 4096,
                      .type = SHOAL_INTEGER,
                      .text = "snakes on a map, each one an agent"},
                     {.name = "size",
                      .value = 192,
                      .low = 4,
                      .high = 4096,
                      .type = SHOAL_INTEGER,
                      .text = "cells of a side of the map"},
                     {.name = "num_food",
                      .value = 1024,
                      .low = 1,
                      .high = 1048576,
                      .type = SHOAL_INTEGER,
                      .text = "pieces of food, at any time"},
                     {.name = "max_length",
                      .value = 64,
                      .low = 3,
                      .high = 65536,
                      .type = SHOAL_INTEGER,
                      .text = "cells of a snake that has grown up"}},
          .observations =
              {{.name = "view",
                .type = SHOAL_UINT8,
                .ndim = 3,
                .shape = {3, SIDE, SIDE},
                .low = 0,
                .high = 1,
                .text = "the cells around the head, which is in the middle and looks "
                        "up: where there is food, what is deadly, and which of that are heads"}},
          .actions = {{.name = "turn",
                       .type = SHOAL_INT64,
                       .low = 0,
                       .high = 2,
                       .text = "before the step",
                       .labels = "straight left right",
                       .keys = "- left right"}},
          .logs = {{.name = "score", .text = "length at the end of a life, of max_length"},
                   {.name = "length", .text = "at the end of a life, in cells"}},
          .resolve = resolve);
