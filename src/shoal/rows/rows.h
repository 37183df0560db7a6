/* The arrays of the agents' rows as one struct, with the operations on an environment and the
 * autoreset modes. fields.py has the same in Python; tests/rows/test_fields.py compares them. */
#ifndef SHOAL_ROWS_H
#define SHOAL_ROWS_H

#include <stddef.h>
#include <stdint.h>

/* Operations. STEP: with the action in the row. RESET: with a seed and options. KEEP: deliver the
 * last result again. GIVEN: step with an action that comes as an object. */
enum { SHOAL_STEP, SHOAL_RESET, SHOAL_KEEP, SHOAL_GIVEN };

/* Autoreset modes: Gymnasium's three. OWN: the environment resets itself. */
enum { SHOAL_NEXT_STEP, SHOAL_SAME_STEP, SHOAL_DISABLED, SHOAL_OWN };

/* First row of each array, in the order of `fields.row_fields`, and the bytes of the wide rows. */
typedef struct {
    char *observations;
    char *final_observations;
    char *actions;
    double *rewards;
    uint8_t *terminations;
    uint8_t *truncations;
    uint8_t *masks;
    uint8_t *acting;
    int64_t *occupants;
    uint8_t *action_masks;
    uint8_t *finals;
    double *episode_returns;
    int64_t *episode_lengths;
    ptrdiff_t observation_nbytes;
    ptrdiff_t action_nbytes;
    ptrdiff_t num_masked;
} shoal_rows;

#endif
