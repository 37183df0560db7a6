/* Tetris, by the guideline's rules: seven pieces drawn from a bag, rotation with kicks (SRS), hold,
 * soft and hard drop. There is one difference: no delay before a piece locks but gravity's own.
 *
 * A row of the board is the bits of one number, walls included, so a piece collides where a shifted
 * piece and the rows have bits in common. */
#include "shoal_env.h"

enum { STAY, LEFT, RIGHT, ROTATE, ROTATE_BACK, SOFT_DROP, HARD_DROP, HOLD, NUM_ACTIONS };
enum { GRAVITY, LINES };             /* the parameters */
enum { EMPTY, STACK, PIECE, GHOST }; /* cells of the observation */

#define HEIGHT 20
#define WIDTH 10
#define PIECES 7
#define NEXT 3 /* pieces that are shown in advance */

/* Rows above the board, for what sticks out; full ones below it; columns left of it, likewise. */
#define ABOVE 4
#define BELOW 4
#define ASIDE 4
#define NOTHING PIECES /* instead of a piece */

#define INSIDE (((1u << WIDTH) - 1) << ASIDE)

typedef struct {
    uint8_t board[HEIGHT][WIDTH];
    uint8_t pieces[2 + NEXT][PIECES + 1]; /* one-hot: falling, on hold (or nothing), the next */
    float rest[3];
} Observation;

typedef struct {
    shoal_rng rng;
    uint32_t rows[ABOVE + HEIGHT + BELOW];
    int32_t piece, turn, x, y; /* x, y: the left upper corner of the piece's box in `rows` */
    int32_t held, may_hold, next[NEXT], bag;
    int32_t gravity, goal, wait, lines, points; /* wait: steps since the piece last fell */
    uint8_t kinds[ABOVE + HEIGHT][WIDTH];       /* of pieces in the stack, for drawing */
} State;

/* The cells of a piece in its box of 4 by 4: bit 4 * row + column. */
SHOAL_FN uint32_t shape(int32_t piece, int32_t turn) {
    static const uint16_t shapes[PIECES][4] = {
        {0x00F0, 0x4444, 0x0F00, 0x2222}, /* I */
        {0x0066, 0x0066, 0x0066, 0x0066}, /* O */
        {0x0072, 0x0262, 0x0270, 0x0232}, /* T */
        {0x0036, 0x0462, 0x0360, 0x0231}, /* S */
        {0x0063, 0x0264, 0x0630, 0x0132}, /* Z */
        {0x0071, 0x0226, 0x0470, 0x0322}, /* J */
        {0x0074, 0x0622, 0x0170, 0x0223}, /* L */
    };
    return shapes[piece][turn];
}

SHOAL_FN int fits(const State *s, uint32_t cells, int32_t x, int32_t y) {
    uint32_t common = 0;
    if (y < 0)
        return 0;
    for (int32_t row = 0; row < 4; row++)
        common |= s->rows[y + row] & (cells >> 4 * row & 15) << x;
    return !common;
}

SHOAL_FN int32_t draw_piece(State *s) {
    int32_t count = 0, bit;
    if (!s->bag)
        s->bag = (1 << PIECES) - 1;
    for (int32_t left = s->bag; left; left &= left - 1)
        count++;
    bit = s->bag;
    for (count = shoal_below(&s->rng, count); count; count--)
        bit &= bit - 1;
    bit &= -bit;
    s->bag ^= bit;
    for (count = 0; bit > 1; bit >>= 1)
        count++;
    return count;
}

/* Returns whether there was room for it. */
SHOAL_FN int begin(State *s, int32_t piece) {
    s->piece = piece;
    s->turn = s->wait = 0;
    s->x = ASIDE + 3;
    s->y = ABOVE;
    return fits(s, shape(piece, 0), s->x, s->y);
}

SHOAL_FN int begin_next(State *s) {
    const int32_t piece = s->next[0];
    for (int i = 1; i < NEXT; i++)
        s->next[i - 1] = s->next[i];
    s->next[NEXT - 1] = draw_piece(s);
    return begin(s, piece);
}

/* The piece becomes part of the stack. Returns the points for the lines that this completes. */
SHOAL_FN int32_t lock(State *s) {
    static const int32_t points[5] = {0, 100, 300, 500, 800};
    const uint32_t cells = shape(s->piece, s->turn);
    int32_t lines = 0;
    for (int32_t i = 0; i < 16; i++)
        if (cells >> i & 1)
            s->kinds[s->y + i / 4][s->x + i % 4 - ASIDE] = (uint8_t)s->piece;
    for (int32_t row = 0; row < 4; row++)
        s->rows[s->y + row] |= (cells >> 4 * row & 15) << s->x;
    for (int32_t row = s->y; row < s->y + 4 && row < ABOVE + HEIGHT; row++) {
        if (~s->rows[row])
            continue;
        for (int32_t r = row; r > 0; r--) {
            s->rows[r] = s->rows[r - 1];
            memcpy(s->kinds[r], s->kinds[r - 1], WIDTH);
        }
        s->rows[0] = ~INSIDE;
        lines++;
    }
    s->lines += lines;
    s->may_hold = 1;
    return points[lines];
}

/* The first of five places where the turned piece fits: the kicks of SRS. */
SHOAL_FN void rotate(State *s, int32_t by) {
    static const int8_t kicks[2][4][5][2] = {
        {{{0, 0}, {-1, 0}, {-1, -1}, {0, 2}, {-1, 2}}, /* from each turn, clockwise: x, y */
         {{0, 0}, {1, 0}, {1, 1}, {0, -2}, {1, -2}},
         {{0, 0}, {1, 0}, {1, -1}, {0, 2}, {1, 2}},
         {{0, 0}, {-1, 0}, {-1, 1}, {0, -2}, {-1, -2}}},
        {{{0, 0}, {-2, 0}, {1, 0}, {-2, 1}, {1, -2}}, /* the same of the long piece */
         {{0, 0}, {-1, 0}, {2, 0}, {-1, -2}, {2, 1}},
         {{0, 0}, {2, 0}, {-1, 0}, {2, -1}, {-1, 2}},
         {{0, 0}, {1, 0}, {-2, 0}, {1, 2}, {-2, -1}}}};
    const int32_t turn = (s->turn + by) & 3, from = by > 0 ? s->turn : turn;
    const uint32_t cells = shape(s->piece, turn);
    for (int i = 0; i < 5; i++) { /* back is clockwise undone: the opposite kicks */
        const int8_t *kick = kicks[s->piece == 0][from][i];
        const int32_t x = s->x + by * kick[0], y = s->y + by * kick[1];
        if (fits(s, cells, x, y)) {
            s->turn = turn;
            s->x = x;
            s->y = y;
            return;
        }
    }
}

SHOAL_FN int32_t landing(const State *s) {
    const uint32_t cells = shape(s->piece, s->turn);
    int32_t y = s->y;
    while (fits(s, cells, s->x, y + 1))
        y++;
    return y;
}

/* Sets the cells of the falling piece, as if its box were at row y. */
SHOAL_FN void mark(const State *s, Observation *seen, int32_t y, uint8_t what) {
    const uint32_t cells = shape(s->piece, s->turn);
    for (int32_t i = 0; i < 16; i++)
        if (cells >> i & 1 && y + i / 4 >= ABOVE)
            seen->board[y + i / 4 - ABOVE][s->x + i % 4 - ASIDE] = what;
}

SHOAL_FN void observe(const State *s, const shoal_io *io) {
    static const uint8_t four[16][4] = {{0, 0, 0, 0}, {1, 0, 0, 0}, {0, 1, 0, 0}, {1, 1, 0, 0},
                                        {0, 0, 1, 0}, {1, 0, 1, 0}, {0, 1, 1, 0}, {1, 1, 1, 0},
                                        {0, 0, 0, 1}, {1, 0, 0, 1}, {0, 1, 0, 1}, {1, 1, 0, 1},
                                        {0, 0, 1, 1}, {1, 0, 1, 1}, {0, 1, 1, 1}, {1, 1, 1, 1}};
    Observation *seen = (Observation *)io->observations;
    for (int32_t row = 0; row < HEIGHT; row++) {
        const uint32_t cells = s->rows[ABOVE + row] >> ASIDE;
        memcpy(seen->board[row], four[cells & 15], 4);
        memcpy(seen->board[row] + 4, four[cells >> 4 & 15], 4);
        memcpy(seen->board[row] + 8, four[cells >> 8 & 3], 2);
    }
    if (!io->terminated[0]) { /* else the piece may be inside the stack */
        mark(s, seen, landing(s), GHOST);
        mark(s, seen, s->y, PIECE);
    }
    memset(seen->pieces, 0, sizeof seen->pieces);
    seen->pieces[0][s->piece] = 1;
    seen->pieces[1][s->held] = 1;
    for (int i = 0; i < NEXT; i++)
        seen->pieces[2 + i][s->next[i]] = 1;
    seen->rest[0] = (float)s->wait / (float)s->gravity;
    seen->rest[1] = (float)s->may_hold;
    seen->rest[2] = s->lines < s->goal ? (float)s->lines / (float)s->goal : 1;
}

SHOAL_FN void init(State *s, const double *params) {
    s->gravity = (int32_t)params[GRAVITY];
    s->goal = (int32_t)params[LINES];
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    for (int32_t row = 0; row < ABOVE + HEIGHT + BELOW; row++)
        s->rows[row] = row < ABOVE + HEIGHT ? ~INSIDE : ~0u;
    s->bag = s->lines = s->points = 0;
    s->held = NOTHING;
    s->may_hold = 1;
    for (int i = 0; i < NEXT; i++)
        s->next[i] = draw_piece(s);
    begin_next(s);
    observe(s, io);
}

SHOAL_FN void step(State *s, const shoal_io *io) {
    const int64_t action = *(const int64_t *)io->actions;
    const int32_t move = (action == RIGHT) - (action == LEFT);
    const uint32_t cells = shape(s->piece, s->turn);
    int32_t points = 0, room = 1;
    if (move && fits(s, cells, s->x + move, s->y)) {
        s->x += move;
    } else if (action == ROTATE || action == ROTATE_BACK) {
        rotate(s, action == ROTATE ? 1 : -1);
    } else if (action == SOFT_DROP && fits(s, cells, s->x, s->y + 1)) {
        s->y++;
        points = 1;
    } else if (action == HARD_DROP) {
        const int32_t y = landing(s);
        points = 2 * (y - s->y);
        s->y = y;
        s->wait = s->gravity; /* locks below */
    } else if (action == HOLD && s->may_hold) {
        const int32_t held = s->held;
        s->held = s->piece;
        s->may_hold = 0;
        room = held == NOTHING ? begin_next(s) : begin(s, held);
    }
    if (room && ++s->wait >= s->gravity) {
        s->wait = 0;
        if (fits(s, shape(s->piece, s->turn), s->x, s->y + 1)) {
            s->y++;
        } else {
            points += lock(s);
            room = begin_next(s);
        }
    }
    s->points += points;
    io->rewards[0] = (float)points * 0.01f;
    io->terminated[0] = !room || s->lines >= s->goal;
    observe(s, io);
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    (void)agent;
    values[0] = s->lines < s->goal ? (float)s->lines / (float)s->goal : 1.0f;
    values[1] = (float)s->lines;
    values[2] = (float)s->points;
}

static uint32_t color_of(int32_t piece) {
    static const uint32_t colors[PIECES] = {SHOAL_AGENT,  SHOAL_GOAL, SHOAL_VIOLET, SHOAL_GREEN,
                                            SHOAL_DANGER, SHOAL_BLUE, SHOAL_ORANGE};
    return colors[piece];
}

/* A piece with the corner of its box at x, y; `size` of a cell; `line` of the outline, 0: filled.
 */
static void draw_cells(shoal_canvas *c, int32_t piece, int32_t turn, float x, float y, float size,
                       float line) {
    for (int32_t i = 0; i < 16; i++)
        if (shape(piece, turn) >> i & 1) {
            shoal_shape *cell =
                shoal_rect(c, x + size * ((float)(i % 4) + 0.5f),
                           y + size * ((float)(i / 4) + 0.5f), (line > 0 ? 0.8f : 0.92f) * size,
                           (line > 0 ? 0.8f : 0.92f) * size, color_of(piece));
            cell->round = 0.12f * size;
            cell->width = line;
        }
}

static void draw(const State *s, shoal_canvas *c) {
    const float left = WIDTH + 1;
    const int fits_here = fits(s, shape(s->piece, s->turn), s->x, s->y);
    shoal_view(c, -0.5f, -0.5f, WIDTH + 6, HEIGHT + 1);
    shoal_rect(c, WIDTH / 2.0f, HEIGHT / 2.0f, WIDTH + 0.2f, HEIGHT + 0.2f, SHOAL_PANEL)->round =
        0.15f;
    for (int32_t i = 0; i < HEIGHT * WIDTH; i++) {
        const int32_t row = i / WIDTH, column = i % WIDTH;
        const int full = s->rows[ABOVE + row] >> (ASIDE + column) & 1;
        shoal_rect(c, (float)column + 0.5f, (float)row + 0.5f, full ? 0.92f : 0.06f,
                   full ? 0.92f : 0.06f,
                   full ? color_of(s->kinds[ABOVE + row][column]) : SHOAL_GRID)
            ->round = full ? 0.12f : 0;
    }
    if (fits_here)
        draw_cells(c, s->piece, s->turn, (float)(s->x - ASIDE), (float)(landing(s) - ABOVE), 1,
                   0.06f);
    draw_cells(c, s->piece, s->turn, (float)(s->x - ASIDE), (float)(s->y - ABOVE), 1, 0);
    shoal_text(c, left + 2, 0.4f, 0.7f, "next", SHOAL_MUTED);
    for (int i = 0; i < NEXT; i++)
        draw_cells(c, s->next[i], 0, left + 0.6f, 1.2f + 2.4f * (float)i, 0.8f, 0);
    shoal_text(c, left + 2, 9.4f, 0.7f, "hold", SHOAL_MUTED);
    if (s->held != NOTHING)
        draw_cells(c, s->held, 0, left + 0.6f, 10.2f, 0.8f, 0);
    shoal_text(c, left + 2, 15, 0.7f, "lines", SHOAL_MUTED);
    shoal_number(c, left + 2, 16.2f, 1, NULL, s->lines, 0, SHOAL_INK);
    shoal_text(c, left + 2, 17.8f, 0.7f, "points", SHOAL_MUTED);
    shoal_number(c, left + 2, 19, 1, NULL, s->points, 0, SHOAL_INK);
}

SHOAL_ENV(.name = "tetris",
          .text =
              "Fill lines with falling pieces.\n"
              "Rules of the guideline: a board of 10 by 20, seven pieces drawn from a bag without "
              "replacement, rotation with kicks (SRS), one piece on hold, once for each piece. The "
              "piece falls by a row every `gravity` steps, and locks when it can't. Reward: a "
              "hundredth of the points: 100, 300, 500 and 800 for one to four lines, 1 for each "
              "row of a soft drop, 2 of a hard one. The game ends when there is no room for the "
              "next piece, or with enough lines. Speed is limited by finding where the piece would "
              "land and by writing the board.",
          .max_steps = 10000,
          .params = {{.name = "gravity",
                      .value = 4,
                      .low = 1,
                      .high = 1000,
                      .type = SHOAL_INTEGER,
                      .text = "steps in which a piece falls by one row"},
                     {.name = "lines",
                      .value = 100,
                      .low = 1,
                      .high = 1000000,
                      .type = SHOAL_INTEGER,
                      .text = "lines that win the game"}},
          .observations =
              {{.name = "board",
                .type = SHOAL_UINT8,
                .ndim = 2,
                .shape = {HEIGHT, WIDTH},
                .low = 0,
                .high = 3,
                .text = "from the top: 0 empty, 1 stack, 2 the falling piece, 3 where it "
                        "would land"},
               {.name = "pieces",
                .type = SHOAL_UINT8,
                .ndim = 1,
                .shape = {(2 + NEXT) * (PIECES + 1)},
                .low = 0,
                .high = 1,
                .text = "five times eight, a 1 for which it is (I O T S Z J L, none): the "
                        "falling piece, the one on hold, the next three"},
               {.name = "rest",
                .type = SHOAL_FLOAT32,
                .ndim = 1,
                .shape = {3},
                .low = 0,
                .high = 1,
                .text = "how soon the piece falls, whether it may be put on hold, lines",
                .labels = "wait may_hold lines"}},
          .actions = {{.name = "move",
                       .type = SHOAL_INT64,
                       .low = 0,
                       .high = NUM_ACTIONS - 1,
                       .text = "of the falling piece",
                       .labels = "stay left right rotate rotate_back soft_drop hard_drop hold",
                       .keys = "- left right up z down space c"}},
          .logs = {{.name = "score", .text = "share of the lines that win"},
                   {.name = "lines", .text = "filled"},
                   {.name = "points", .text = "of the guideline"}});
