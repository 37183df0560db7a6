/* 2048, after the rules of Cirulli's game (2014).
 *
 * The board is one 64-bit number: 4 bits for each cell, row by row from the top, 0 for an empty one
 * and k for the tile 2^k. All four rows move at once, by shifts and masks of the whole board. */
#include "shoal_env.h"

enum { UP, DOWN, LEFT, RIGHT };
enum { CELLS = 16, TILES = 16, LARGEST = 15 }; /* two tiles of 2^15 stay apart: no room for more */

#define COLUMN 0x0001000100010001u /* bit 0 of the left cell of each row */
#define ONES 0x1111111111111111u   /* bit 0 of each cell */

typedef struct {
    shoal_rng rng;
    uint64_t board;
    int32_t points;
} State;

/* Bit 0 of each cell that is not 0. */
SHOAL_FN uint64_t filled(uint64_t cells) {
    cells |= cells >> 2;
    return (cells | cells >> 1) & ONES;
}

/* Exchanges the cells that `mask` selects with those `shift` bits above. */
SHOAL_FN uint64_t exchange(uint64_t board, int shift, uint64_t mask) {
    const uint64_t differ = (board ^ board >> shift) & mask;
    return board ^ differ ^ differ << shift;
}

/* Rows become columns. */
SHOAL_FN uint64_t transpose(uint64_t board) {
    board = exchange(board, 12, 0x0000F0F00000F0F0u);
    return exchange(board, 24, 0x00000000FF00FF00u);
}

/* Left becomes right. */
SHOAL_FN uint64_t mirror(uint64_t board) {
    board = exchange(board, 4, 0x0F0F0F0F0F0F0F0Fu);
    return exchange(board, 8, 0x00FF00FF00FF00FFu);
}

/* In rows whose bit of COLUMN is set in `rows`, closes up the gap at a column. */
SHOAL_FN uint64_t close_up(uint64_t board, uint64_t rows, int column) {
    const uint64_t right = rows * (0xFFFFu & 0xFFFFu << 4 * column);
    return (board & ~right) | (board >> 4 & right & ~(COLUMN * 0xF000u));
}

SHOAL_FN uint64_t move_left(uint64_t board, int32_t *points) {
    for (int column = 2; column >= 0; column--)
        board = close_up(board, ~(filled(board) >> 4 * column) & COLUMN, column);
    for (int column = 0; column < 3; column++) { /* each tile merges once, the leftmost first */
        const uint64_t same = ~filled(board ^ board >> 4) & filled(board);
        const uint64_t rows = same & filled(~board);
        const uint64_t merge = rows >> 4 * column & COLUMN;
        for (int row = 0; row < 4; row++)
            if (merge >> 16 * row & 1)
                *points += 2 << (board >> (16 * row + 4 * column) & 15);
        board = close_up(board, merge, column) + (merge << 4 * column);
    }
    return board;
}

/* Which moves change the board: a tile has an empty cell or its like ahead. */
SHOAL_FN void find_moves(uint64_t board, uint8_t *legal) {
    const uint64_t tiles = filled(board), merging = tiles & filled(~board);
    const uint64_t columns = ~(COLUMN << 12), rows = 0x0000FFFFFFFFFFFFu; /* all but the last */
    const int across = (merging & ~filled(board ^ board >> 4) & columns) != 0;
    const int down = (merging & ~filled(board ^ board >> 16) & rows) != 0;
    legal[UP] = down || (tiles >> 16 & ~tiles & rows);
    legal[DOWN] = down || (tiles & ~(tiles >> 16) & rows);
    legal[LEFT] = across || (tiles >> 4 & ~tiles & columns);
    legal[RIGHT] = across || (tiles & ~(tiles >> 4) & columns);
}

/* A new tile in an empty cell; there must be one. */
SHOAL_FN void add_tile(State *s) {
    uint64_t empty = ~filled(s->board) & ONES;
    int32_t count = 0;
    for (uint64_t left = empty; left; left &= left - 1)
        count++;
    for (count = shoal_below(&s->rng, count); count; count--)
        empty &= empty - 1;
    empty &= ~empty + 1; /* the lowest */
    s->board |= shoal_below(&s->rng, 10) ? empty : empty << 1;
}

SHOAL_FN int observe(const State *s, const shoal_io *io) {
    uint8_t *seen = (uint8_t *)io->observations, *legal = io->action_masks;
    memset(seen, 0, CELLS * TILES);
    for (int i = 0; i < CELLS; i++)
        seen[TILES * i + (int)(s->board >> 4 * i & 15)] = 1;
    find_moves(s->board, legal);
    if (legal[UP] | legal[DOWN] | legal[LEFT] | legal[RIGHT])
        return 1;
    memset(legal, 1, 4); /* over: never are all illegal */
    return 0;
}

SHOAL_FN void init(State *s, const double *params) {
    (void)s;
    (void)params; /* there are none */
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    s->board = 0;
    s->points = 0;
    add_tile(s);
    add_tile(s);
    observe(s, io);
}

SHOAL_FN void step(State *s, const shoal_io *io) {
    const int64_t action = *(const int64_t *)io->actions;
    const int vertical = action <= DOWN, far = action == DOWN || action == RIGHT;
    uint64_t board = vertical ? transpose(s->board) : s->board;
    int32_t points = 0;
    board = move_left(far ? mirror(board) : board, &points);
    board = far ? mirror(board) : board;
    board = vertical ? transpose(board) : board;
    if (board != s->board) {
        s->board = board;
        s->points += points;
        add_tile(s);
    }
    io->rewards[0] = (float)points * (1 / 256.0f);
    io->terminated[0] = !observe(s, io);
}

SHOAL_FN int32_t largest(const State *s) {
    uint64_t tile = 0;
    for (int i = 0; i < CELLS; i++)
        if ((s->board >> 4 * i & 15) > tile)
            tile = s->board >> 4 * i & 15;
    return 1 << tile;
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    const float tile = (float)largest(s);
    (void)agent;
    values[0] = tile < 2048 ? tile / 2048 : 1.0f;
    values[1] = (float)s->points;
    values[2] = tile;
}

static void draw(const State *s, shoal_canvas *c) {
    static const uint32_t colors[TILES] = {SHOAL_GRID,   SHOAL_WALL,  SHOAL_MUTED,  SHOAL_BLUE,
                                           SHOAL_AGENT,  SHOAL_GREEN, SHOAL_GOAL,   SHOAL_ORANGE,
                                           SHOAL_DANGER, SHOAL_PINK,  SHOAL_VIOLET, SHOAL_GOAL,
                                           SHOAL_AGENT,  SHOAL_BLUE,  SHOAL_VIOLET, SHOAL_INK};
    static const float heights[6] = {0, 0.45f, 0.42f, 0.36f, 0.29f, 0.24f}; /* by digits */
    shoal_view(c, -0.15f, -0.85f, 4.3f, 5);
    shoal_number(c, 2, -0.45f, 0.4f, NULL, s->points, 0, SHOAL_INK);
    shoal_rect(c, 2, 2, 4.1f, 4.1f, SHOAL_PANEL)->round = 0.15f;
    for (int i = 0; i < CELLS; i++) {
        const int tile = (int)(s->board >> 4 * i & 15), number = 1 << tile;
        const float x = (float)(i % 4) + 0.5f, y = (float)(i / 4) + 0.5f;
        const int digits = 1 + (number > 9) + (number > 99) + (number > 999) + (number > 9999);
        shoal_rect(c, x, y, 0.9f, 0.9f, colors[tile])->round = 0.1f;
        if (tile)
            shoal_number(c, x, y, heights[digits], NULL, number, 0,
                         tile < 2 ? SHOAL_INK : SHOAL_NIGHT);
    }
}

SHOAL_ENV(.name = "g2048",
          .text =
              "Slide tiles on a board of 4 by 4; equal ones merge.\n"
              "After each move that changes the board a new tile appears in a random empty cell: a "
              "2, one time in ten a 4. A move that changes nothing does nothing. Reward: the value "
              "of the tiles made by merging, divided by 256. The game ends when no move is left. "
              "Speed is limited by the arithmetic of a move, some 150 operations on the board.",
          .max_steps = 20000, .action_mask = 1,
          .observations = {{.name = "board",
                            .type = SHOAL_UINT8,
                            .ndim = 3,
                            .shape = {4, 4, TILES},
                            .low = 0,
                            .high = 1,
                            .text = "for each cell a 1 at the tile's power of two; at 0 if it is "
                                    "empty"}},
          .actions = {{.name = "slide",
                       .type = SHOAL_INT64,
                       .low = 0,
                       .high = 3,
                       .text = "all tiles",
                       .labels = "up down left right",
                       .keys = "up down left right"}},
          .logs = {{.name = "score", .text = "the largest tile, of 2048; at most 1"},
                   {.name = "points", .text = "the value of all tiles made by merging"},
                   {.name = "largest", .text = "the largest tile"}});
