#include "advantage.h"

static double clipped(double ratio, double limit) {
    return ratio > limit ? limit : ratio;
}

/* One segment after the other, each from its end. Eight side by side were no faster (1.1 against
 * 1.2 ns a step): the ends of episodes cut the chain of dependent sums often enough.
 *
 * What a step must not see is left out by a choice and not by a product, for 0 * NaN is NaN. Sums
 * are in double, so that long ones round once, and alike wherever this is compiled. */
void shoal_advantages(float *advantages, const float *rewards, const float *values,
                      const uint8_t *terminated, const uint8_t *truncated, const uint8_t *valid,
                      const float *ratios, size_t segments, size_t horizon, double gamma,
                      double gae_lambda, double rho, double c) {
    for (size_t segment = 0; segment < segments; segment++) {
        double advantage = 0.0;
        for (size_t t = horizon; t-- > 0;) {
            size_t step = segment * horizon + t;
            const float *value = &values[segment * (horizon + 1) + t];
            double next_value = terminated[step] ? 0.0 : gamma * value[1];
            double delta = rewards[step] + next_value - value[0];
            double decay = gamma * gae_lambda;
            if (ratios) {
                delta *= clipped(ratios[step], rho);
                decay *= clipped(ratios[step], c);
            }
            int ended = terminated[step] || truncated[step];
            advantage = ended ? delta : delta + decay * advantage;
            advantage = valid[step] ? advantage : 0.0;
            advantages[step] = (float)advantage;
        }
    }
}
