/* Connect Four, against a search or another agent.
 *
 * The discs of a side are bits of one 64-bit number: bit 7 * column + height. The seventh bit of a
 * column is never set, so that shifting along a line does not run into the next column. The search
 * is negamax with alpha-beta, and looks at threats (cells that complete four) in place of its last
 * two plies: whoever has a playable threat wins, whoever faces two loses, and one must be met. */
#include "shoal_env.h"

enum { DEPTH, SELF_PLAY }; /* the parameters */

#define ROWS 6
#define COLUMNS 7
#define HIGH (ROWS + 1) /* bits of a column */
#define NOBODY -1

#define BOTTOM 0x0000040810204081u /* the lowest cell of each column */
#define BOARD (BOTTOM * 63)        /* all cells */

typedef struct {
    shoal_rng rng;
    uint64_t discs[2]; /* of agent 0; of its opponent, which is agent 1 in self-play */
    int32_t depth, self_play;
    int32_t turn, winner, moves, last; /* last: the column of the last move */
} State;

/* Where a disc may fall: the lowest free cell of each column that has one. */
SHOAL_FN uint64_t playable(uint64_t taken) {
    return (taken + BOTTOM) & BOARD;
}

/* The free cells with which `own` discs make four in a line. */
SHOAL_FN uint64_t threats(uint64_t own, uint64_t taken) {
    uint64_t found = own << 1 & own << 2 & own << 3;
    for (int along = HIGH - 1; along <= HIGH + 1; along++) { /* falling, level, rising */
        const uint64_t before = own << along & own << 2 * along;
        const uint64_t after = own >> along & own >> 2 * along;
        found |= before & (own << 3 * along | own >> along);
        found |= after & (own >> 3 * along | own << along);
    }
    return found & BOARD & ~taken;
}

/* Who is to move, with `own` discs, wins (> 0) or loses (< 0) within `depth` plies; 0: neither, or
 * a draw. A win has the plies left after it plus 1, so that sooner is better. Exact between alpha
 * and beta, else a bound. */
SHOAL_FN int32_t search(uint64_t own, uint64_t other, int32_t depth, int32_t alpha, int32_t beta) {
    const uint64_t taken = own | other, danger = threats(other, taken);
    uint64_t cells = playable(taken), must = danger & cells;
    int32_t best = 1 - depth; /* the opponent wins with the next move: there is nothing worse */
    if (threats(own, taken) & cells)
        return depth;
    if (depth == 1 || !cells)
        return 0;
    if (must & (must - 1))
        return best;
    cells = (must ? must : cells) & ~(danger >> 1); /* nor make way for the opponent */
    if (!cells || depth == 2)
        return cells ? 0 : best;
    if (beta > depth - 2) /* the soonest win that is left */
        beta = depth - 2;
    for (int32_t i = 0, column = 3; i < COLUMNS && best < beta; i++) {
        const uint64_t cell = cells & (uint64_t)63 << HIGH * column;
        if (cell) {
            const int32_t floor = best > alpha ? best : alpha;
            const int32_t value = -search(other, own | cell, depth - 1, -beta, -floor);
            best = value > best ? value : best;
        }
        column += i % 2 ? i + 1 : -i - 1; /* from the middle: 3 2 4 1 5 0 6 */
    }
    return best;
}

/* A best move of who has `own` discs, all of them equally likely. There must be a legal one. */
SHOAL_FN int32_t choose(State *s, uint64_t own, uint64_t other) {
    const uint64_t taken = own | other, wins = threats(own, taken);
    const int32_t depth = s->depth;
    int32_t best = -depth - 1, count = 0, columns[COLUMNS];
    for (int32_t column = 0; column < COLUMNS; column++) {
        const uint64_t cell = playable(taken) & (uint64_t)63 << HIGH * column;
        int32_t value = 0;
        if (!cell)
            continue;
        if (depth && wins & cell)
            value = depth;
        else if (depth > 1) /* moves as good as the best must be told from lesser ones */
            value = -search(other, own | cell, depth - 1, -depth, 1 - best);
        if (value > best)
            best = value, count = 0;
        if (value == best)
            columns[count++] = column;
    }
    return columns[shoal_below(&s->rng, count)];
}

SHOAL_FN void observe(const State *s, const shoal_io *io) {
    uint8_t *planes = (uint8_t *)io->observations, *legal = io->action_masks;
    const uint64_t taken = s->discs[0] | s->discs[1];
    const int full = (taken & BOARD) == BOARD;
    for (int32_t row = 0; row < ROWS; row++)
        for (int32_t column = 0; column < COLUMNS; column++) {
            const int32_t at = HIGH * column + ROWS - 1 - row, i = COLUMNS * row + column;
            planes[i] = (uint8_t)(s->discs[0] >> at & 1);
            planes[ROWS * COLUMNS + i] = (uint8_t)(s->discs[1] >> at & 1);
        }
    for (int32_t column = 0; column < COLUMNS; column++) /* never are all illegal */
        legal[column] = full || !(taken >> (HIGH * column + ROWS - 1) & 1);
    if (s->self_play) {
        memcpy(planes + 3 * ROWS * COLUMNS, planes, ROWS * COLUMNS);
        memcpy(planes + 2 * ROWS * COLUMNS, planes + ROWS * COLUMNS, ROWS * COLUMNS);
        memcpy(legal + COLUMNS, legal, COLUMNS);
        io->acting[!s->turn] = 0;
    }
}

/* A move of the side whose turn it is. Returns whether the game is over. */
SHOAL_FN int play(State *s, int32_t column) {
    const uint64_t taken = s->discs[0] | s->discs[1];
    const uint64_t cell = playable(taken) & (uint64_t)63 << HIGH * column;
    const int32_t side = s->turn;
    s->turn = !side;
    if (!cell)
        s->winner = !side; /* an illegal move loses */
    else if (threats(s->discs[side], taken) & cell)
        s->winner = side;
    s->discs[side] |= cell;
    s->moves += cell != 0;
    s->last = column;
    return s->winner != NOBODY || s->moves == ROWS * COLUMNS;
}

SHOAL_FN void init(State *s, const double *params) {
    s->depth = (int32_t)params[DEPTH];
    s->self_play = params[SELF_PLAY] != 0;
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    s->discs[0] = s->discs[1] = 0;
    s->moves = 0;
    s->winner = s->last = NOBODY;
    s->turn = shoal_below(&s->rng, 2);
    if (!s->self_play && s->turn == 1)
        play(s, choose(s, s->discs[1], s->discs[0]));
    observe(s, io);
}

SHOAL_FN void step(State *s, const shoal_io *io) {
    const int32_t side = s->turn; /* 0, unless it is self-play */
    const int32_t agents = s->self_play ? 2 : 1;
    int over = play(s, (int32_t)((const int64_t *)io->actions)[side]);
    if (!s->self_play && !over)
        over = play(s, choose(s, s->discs[1], s->discs[0]));
    for (int32_t i = 0; i < agents; i++) {
        io->terminated[i] = (uint8_t)over;
        if (s->winner != NOBODY)
            io->rewards[i] = s->winner == i ? 1.0f : -1.0f;
    }
    if (s->self_play && !over) { /* complete is what the other one did in its last turn, if any */
        io->masks[side] = 0;
        io->masks[!side] = s->moves > 1;
    }
    observe(s, io);
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    values[0] = s->winner == NOBODY ? 0.5f : s->winner == agent ? 1.0f : 0.0f;
    values[1] = (float)s->moves;
}

static void draw(const State *s, shoal_canvas *c) {
    static const uint32_t colors[2] = {SHOAL_AGENT, SHOAL_DANGER};
    shoal_view(c, -0.3f, -1.1f, COLUMNS + 0.6f, ROWS + 1.4f);
    shoal_rect(c, COLUMNS / 2.0f, ROWS / 2.0f, COLUMNS + 0.2f, ROWS + 0.2f, SHOAL_PANEL)->round =
        0.3f;
    if (s->winner != NOBODY || s->moves == ROWS * COLUMNS)
        shoal_text(c, COLUMNS / 2.0f, -0.55f, 0.5f,
                   s->winner == NOBODY ? "draw"
                   : s->winner         ? "coral wins"
                                       : "teal wins",
                   s->winner == NOBODY ? SHOAL_INK : colors[s->winner]);
    else
        shoal_circle(c, COLUMNS / 2.0f, -0.55f, 0.25f, colors[s->turn]);
    for (int32_t i = 0; i < ROWS * COLUMNS; i++) {
        const int32_t column = i / ROWS, height = i % ROWS, at = HIGH * column + height;
        const float x = (float)column + 0.5f, y = (float)(ROWS - height) - 0.5f;
        const int top = column == s->last && !((s->discs[0] | s->discs[1]) >> (at + 1) & 1);
        shoal_circle(c, x, y, 0.42f, SHOAL_GRID);
        for (int side = 0; side < 2; side++)
            if (s->discs[side] >> at & 1) {
                shoal_circle(c, x, y, 0.42f, colors[side]);
                if (top) /* the last move */
                    shoal_circle(c, x, y, 0.3f, SHOAL_INK)->width = 0.05f;
            }
    }
}

static const char *resolve(const double *params, shoal_spec *spec) {
    spec->agents = params[SELF_PLAY] != 0 ? 2 : 1;
    return NULL;
}

SHOAL_ENV(.name = "connect4",
          .text =
              "Four in a line on a board of 7 columns by 6, against a search or another agent.\n"
              "The side that begins is drawn by lot. The opponent looks `depth` plies ahead, "
              "and draws lots among equally good moves. With self_play there are two agents "
              "that move in turn. Reward: 1 for a win, -1 for a loss, 0 for a draw; an illegal "
              "move loses.",
          .action_mask = 1,
          .params = {{.name = "depth",
                      .value = 3,
                      .low = 0,
                      .high = 8,
                      .type = SHOAL_INTEGER,
                      .text = "plies that the opponent looks ahead; 0: any legal move"},
                     {.name = "self_play",
                      .value = 0,
                      .low = 0,
                      .high = 1,
                      .type = SHOAL_BOOLEAN,
                      .text = "two agents, and no search"}},
          .observations = {{.name = "board",
                            .type = SHOAL_UINT8,
                            .ndim = 3,
                            .shape = {2, ROWS, COLUMNS},
                            .low = 0,
                            .high = 1,
                            .text = "1 where there is a disc: one's own, then the other's; the top "
                                    "row first"}},
          .actions = {{.name = "column",
                       .type = SHOAL_INT64,
                       .low = 0,
                       .high = COLUMNS - 1,
                       .text = "where to drop a disc, from the left",
                       .keys = "1 2 3 4 5 6 7"}},
          .logs = {{.name = "score", .text = "1 for a win, 0.5 for a draw, 0 for a loss"},
                   {.name = "moves", .text = "of both sides"}},
          .resolve = resolve);
