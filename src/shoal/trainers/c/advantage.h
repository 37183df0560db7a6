/* Advantages of rollouts; what they are is said in advantage.py. */
#ifndef SHOAL_ADVANTAGE_H
#define SHOAL_ADVANTAGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Every array has segments * horizon elements, row by row; values has one more in each row. The
 * bytes are truth values. ratios may be NULL: rho and c are then of no use. */
void shoal_advantages(float *advantages, const float *rewards, const float *values,
                      const uint8_t *terminated, const uint8_t *truncated, const uint8_t *valid,
                      const float *ratios, size_t segments, size_t horizon, double gamma,
                      double gae_lambda, double rho, double c);

#ifdef __cplusplus
}
#endif

#endif
