/* Triple Triad, the card game of nine squares, against an opponent or another agent. */
#include "shoal_env.h"

enum { SKILL, OPEN, SELF_PLAY };          /* the parameters */
enum { ABOVE, RIGHT_OF, BELOW, LEFT_OF }; /* sides of a card, in the order of its ranks */
enum { HAND = 5, CARDS = 2 * HAND, CELLS = 9, BEST_RANK = 10, CHOICES = HAND + CELLS };
enum { FEATURES = 6, ROWS = CELLS + CARDS }; /* of the observation */
enum { NONE = -1 };

typedef struct {
    shoal_rng rng;
    float skill;
    int32_t open, self_play;
    int32_t turn, winner, played, chosen,
        last;                         /* chosen: 0 to 4, of who is to move; last: a cell */
    uint8_t ranks[CARDS][4];          /* cards 0 to 4 are agent 0's to begin with */
    int8_t card[CELLS], owner[CELLS]; /* card: NONE in an empty cell */
    uint8_t held[CARDS];              /* 1 while a card is in the hand */
} State;

/* The cell at a side of another, or NONE at the edge of the board. */
SHOAL_FN int32_t neighbor(int32_t cell, int32_t side) {
    static const int8_t table[CELLS][4] = {{-1, 1, 3, -1}, {-1, 2, 4, 0}, {-1, -1, 5, 1},
                                           {0, 4, 6, -1},  {1, 5, 7, 3},  {2, -1, 8, 4},
                                           {3, 7, -1, -1}, {4, 8, -1, 6}, {5, -1, -1, 7}};
    return table[cell][side];
}

/* The rank that a card of `side` must exceed to capture what lies at an edge of a cell. */
SHOAL_FN int32_t resistance(const State *s, int32_t side, int32_t cell, int32_t edge) {
    const int32_t next = neighbor(cell, edge);
    if (next == NONE || s->card[next] == NONE || s->owner[next] == side)
        return BEST_RANK;
    return s->ranks[s->card[next]][(edge + 2) % 4];
}

/* Lays a card of the side whose turn it is. */
SHOAL_FN void lay(State *s, int32_t card, int32_t cell) {
    const int32_t side = s->turn;
    for (int32_t edge = 0; edge < 4; edge++)
        if (s->ranks[card][edge] > resistance(s, side, cell, edge))
            s->owner[neighbor(cell, edge)] = (int8_t)side;
    s->card[cell] = (int8_t)card;
    s->owner[cell] = (int8_t)side;
    s->held[card] = 0;
    s->last = cell;
    s->chosen = NONE;
    s->turn = !side;
    s->played++;
}

/* Cards of a side: on the board and in its hand. */
SHOAL_FN int32_t count_cards(const State *s, int32_t side) {
    int32_t count = 0;
    for (int32_t i = 0; i < CELLS; i++)
        count += s->card[i] != NONE && s->owner[i] == side;
    for (int32_t i = 0; i < HAND; i++)
        count += s->held[HAND * side + i];
    return count;
}

/* Whether the board is full; if so, also who has won. */
SHOAL_FN int finish(State *s) {
    int32_t own;
    if (s->played < CELLS)
        return 0;
    own = count_cards(s, 0);
    s->winner = own > HAND ? 0 : own < HAND ? 1 : NONE;
    return 1;
}

/* The opponent's move: one that captures the most, or any; lots are drawn among equals. */
SHOAL_FN void oppose(State *s) {
    const int greedy = shoal_uniform(&s->rng) < s->skill;
    int32_t moves[HAND * CELLS], count = 0, most = 0, move;
    for (int32_t cell = 0; cell < CELLS; cell++) {
        int32_t resist[4];
        if (s->card[cell] != NONE)
            continue;
        for (int32_t edge = 0; edge < 4; edge++)
            resist[edge] = resistance(s, 1, cell, edge);
        for (int32_t card = HAND; card < CARDS; card++) {
            int32_t captured = 0;
            if (!s->held[card])
                continue;
            for (int32_t edge = 0; edge < 4 && greedy; edge++)
                captured += s->ranks[card][edge] > resist[edge];
            if (captured > most)
                most = captured, count = 0;
            if (captured == most)
                moves[count++] = card * CELLS + cell;
        }
    }
    move = moves[shoal_below(&s->rng, count)];
    lay(s, move / CELLS, move % CELLS);
}

/* What a side sees of a card: its ranks and whose it is. */
SHOAL_FN void show(const State *s, int32_t card, int own, int open, float *seen) {
    for (int32_t edge = 0; edge < 4 && open; edge++)
        seen[edge] = (float)s->ranks[card][edge] * (1.0f / (float)BEST_RANK);
    seen[4] = own ? 1.0f : -1.0f;
}

SHOAL_FN void observe(const State *s, const shoal_io *io) {
    const int32_t agents = s->self_play ? 2 : 1;
    memset(io->observations, 0, sizeof(float) * (size_t)(agents * ROWS * FEATURES));
    for (int32_t side = 0; side < agents; side++) {
        float *seen = (float *)io->observations + side * ROWS * FEATURES;
        uint8_t *legal = io->action_masks + side * CHOICES;
        const int choosing = s->turn != side || s->chosen == NONE, over = s->played == CELLS;
        for (int32_t i = 0; i < CELLS; i++) {
            if (s->card[i] != NONE)
                show(s, s->card[i], s->owner[i] == side, 1, seen + i * FEATURES);
            legal[HAND + i] = over || (!choosing && s->card[i] == NONE);
        }
        for (int32_t i = 0; i < CARDS; i++) {
            const int32_t card = (HAND * side + i) % CARDS; /* one's own come first */
            if (s->held[card])
                show(s, card, i < HAND, i < HAND || s->open, seen + (CELLS + i) * FEATURES);
            if (i < HAND)
                legal[i] = over || (choosing && s->held[card]);
        }
        if (!choosing)
            seen[(CELLS + s->chosen) * FEATURES + 5] = 1;
    }
    if (s->self_play)
        io->acting[!s->turn] = 0;
}

SHOAL_FN void init(State *s, const double *params) {
    s->skill = (float)params[SKILL];
    s->open = params[OPEN] != 0;
    s->self_play = params[SELF_PLAY] != 0;
}

SHOAL_FN void reset(State *s, const shoal_io *io) {
    for (int32_t card = 0; card < CARDS; card++)
        for (int32_t edge = 0; edge < 4; edge++)
            s->ranks[card][edge] = (uint8_t)(1 + shoal_below(&s->rng, BEST_RANK));
    memset(s->card, NONE, sizeof s->card);
    memset(s->held, 1, sizeof s->held);
    s->winner = s->chosen = s->last = NONE;
    s->played = 0;
    s->turn = shoal_below(&s->rng, 2);
    if (!s->self_play && s->turn == 1)
        oppose(s);
    observe(s, io);
}

SHOAL_FN void step(State *s, const shoal_io *io) {
    const int32_t side = s->turn; /* 0, unless it is self-play */
    const int32_t action = (int32_t)((const int64_t *)io->actions)[side];
    const int32_t agents = s->self_play ? 2 : 1, choosing = s->chosen == NONE;
    int over = 0;
    if (choosing ? action >= HAND || !s->held[HAND * side + action]
                 : action < HAND || s->card[action - HAND] != NONE) {
        over = 1; /* an illegal move loses */
        s->winner = !side;
    } else if (choosing) {
        s->chosen = action;
    } else {
        lay(s, HAND * side + s->chosen, action - HAND);
        over = finish(s);
        if (!s->self_play && !over) {
            oppose(s);
            over = finish(s);
        }
    }
    for (int32_t i = 0; i < agents; i++) {
        io->terminated[i] = (uint8_t)over;
        if (s->winner != NONE)
            io->rewards[i] = s->winner == i ? 1.0f : -1.0f;
    }
    if (s->self_play && !over) {
        /* After a choice the same side goes on, and only its transition is complete; after a move
         * only that of the other side's last move, if there was one. */
        io->masks[side] = (uint8_t)choosing;
        io->masks[!side] = !choosing && s->played > 1;
    }
    observe(s, io);
}

SHOAL_FN void report(const State *s, int32_t agent, float *values) {
    values[0] = s->winner == NONE ? 0.5f : s->winner == agent ? 1.0f : 0.0f;
    values[1] = (float)count_cards(s, agent);
}

static void draw_card(const State *s, shoal_canvas *c, int32_t card, uint32_t color, float x,
                      float y, float size, int32_t chosen) {
    static const char *const ranks[BEST_RANK + 1] = {"",  "1", "2", "3", "4", "5",
                                                     "6", "7", "8", "9", "A"};
    static const float right[4] = {0, 0.31f, 0, -0.31f}, down[4] = {-0.3f, 0, 0.3f, 0};
    shoal_key(c, 8 * card + 1);
    shoal_rect(c, x, y, size, size, color)->round = 0.12f * size;
    if (chosen) {
        shoal_key(c, 8 * card + 2);
        shoal_shape *edge = shoal_rect(c, x, y, size, size, SHOAL_GOAL);
        edge->round = 0.12f * size, edge->width = 0.07f * size;
    }
    for (int32_t edge = 0; edge < 4; edge++) {
        shoal_key(c, 8 * card + 3 + edge);
        shoal_text(c, x + right[edge] * size, y + down[edge] * size, 0.3f * size,
                   ranks[s->ranks[card][edge]], SHOAL_NIGHT);
    }
}

static void draw(const State *s, shoal_canvas *c) {
    static const uint32_t colors[2] = {SHOAL_AGENT, SHOAL_DANGER};
    const int over = s->winner != NONE || s->played == CELLS;
    shoal_view(c, -0.2f, -0.75f, 7.4f, 5.55f);
    shoal_number(c, 0.5f, -0.35f, 0.45f, NULL, count_cards(s, 0), 0, SHOAL_AGENT);
    shoal_number(c, 6.5f, -0.35f, 0.45f, NULL, count_cards(s, 1), 0, SHOAL_DANGER);
    if (over)
        shoal_text(c, 3.5f, -0.35f, 0.45f,
                   s->winner == NONE ? "draw"
                   : s->winner       ? "coral wins"
                                     : "teal wins",
                   s->winner == NONE ? SHOAL_INK : colors[s->winner]);
    else
        shoal_circle(c, s->turn ? 5.85f : 1.15f, -0.35f, 0.15f, colors[s->turn]);
    for (int32_t i = 0; i < CELLS; i++)
        shoal_rect(c, 2 + 1.5f * (float)(i % 3), 0.8f + 1.5f * (float)(i / 3), 1.4f, 1.4f,
                   SHOAL_PANEL)
            ->round = 0.15f;
    for (int32_t i = 0; i < CELLS; i++)
        if (s->card[i] != NONE)
            draw_card(s, c, s->card[i], colors[s->owner[i]], 2 + 1.5f * (float)(i % 3),
                      0.8f + 1.5f * (float)(i / 3), 1.4f, i == s->last);
    for (int32_t card = 0; card < CARDS; card++) {
        const int32_t side = card / HAND, chosen = s->turn == side && s->chosen == card % HAND;
        if (s->held[card])
            draw_card(s, c, card, colors[side], side ? 6.5f : 0.5f,
                      0.5f + 0.9f * (float)(card % HAND), 0.84f, chosen);
    }
}

static const char *resolve(const double *params, shoal_spec *spec) {
    spec->agents = params[SELF_PLAY] != 0 ? 2 : 1;
    return NULL;
}

SHOAL_ENV(.name = "tripletriad",
          .text = "Lay cards and capture the neighbours: Triple Triad on a board of 3 by 3.\n"
                  "Each side holds five cards. A card has a rank from 1 to 10 at each of its four "
                  "edges; ranks and the side that begins are drawn by lot in each game. A turn "
                  "takes two steps: choose a card of the hand, then an empty cell. The card "
                  "captures each neighbour of the other side whose facing rank is lower; captured "
                  "cards capture nothing. When the board is full, the side with more of the ten "
                  "cards wins, its hand included. With self_play there are two agents that move in "
                  "turn. Reward: 1 for a win, -1 for a loss, 0 for a draw; an illegal move loses. "
                  "Speed is limited by the opponent, which looks at each of its moves, and by the "
                  "114 numbers of the observation.",
          .action_mask = 1,
          .params = {{.name = "skill",
                      .value = 1,
                      .low = 0,
                      .high = 1,
                      .text = "probability that a move of the opponent is one that captures the "
                              "most; else it is any legal one"},
                     {.name = "open",
                      .value = 1,
                      .type = SHOAL_BOOLEAN,
                      .text = "the ranks in the other side's hand are seen"},
                     {.name = "self_play",
                      .value = 0,
                      .type = SHOAL_BOOLEAN,
                      .text = "two agents, and no opponent"}},
          .observations = {{.name = "cards",
                            .type = SHOAL_FLOAT32,
                            .ndim = 2,
                            .shape = {ROWS, FEATURES},
                            .low = -1,
                            .high = 1,
                            .text = "those in the 9 cells, row by row, the 5 of one's hand and the "
                                    "5 of the other's. For each: its ranks above, right, below and "
                                    "left, of 10; 1 if it is one's own, -1 if the other's; 1 if it "
                                    "is chosen. Zeros where there is none"}},
          .actions = {{.name = "choice",
                       .type = SHOAL_INT64,
                       .low = 0,
                       .high = CHOICES - 1,
                       .text = "a card of the hand, then a cell",
                       .labels = "card1 card2 card3 card4 card5 a1 b1 c1 a2 b2 c2 a3 b3 c3",
                       .keys = "1 2 3 4 5 q w e a s d z x c"}},
          .logs = {{.name = "score", .text = "1 for a win, 0.5 for a draw, 0 for a loss"},
                   {.name = "cards", .text = "of one's own at the end, of ten"}},
          .resolve = resolve);
