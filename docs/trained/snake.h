/* A policy, written by `shoal export --format c`.
 *
 * policy_forward computes one step of one agent. `observation` is laid out and aligned as the
 * environment writes it. `state` holds POLICY_STATE floats, which are zero when an episode begins,
 * and is changed. `scratch` holds POLICY_SCRATCH floats. `logits` gets POLICY_LOGITS floats: the
 * categories of one component after the other, then the means and then the logarithms of the
 * standard deviations of the continuous numbers.
 *
 * policy_act chooses an action: the likeliest, or a drawn one. `mask` has 1 for each legal category
 * of all components in turn, or is NULL. `random` is any number at first.
 */
#ifndef POLICY_H
#define POLICY_H

#include "shoal_net.h"

enum {
    POLICY_WEIGHTS = 128288,    /* floats of weights.bin */
    POLICY_SCRATCH = 1424,    /* floats */
    POLICY_STATE = 0,        /* floats that an agent remembers; 0: none */
    POLICY_OBSERVATION = 363,  /* bytes of an agent's observation */
    POLICY_LOGITS = 3,       /* floats: the parameters of the distribution of actions */
    POLICY_ACTION = 8,       /* bytes of an action */
    POLICY_COMPONENTS = 1,   /* choices of an action */
    POLICY_CONTINUOUS = 0    /* continuous numbers of an action */
};

static const int POLICY_CATEGORIES[] = {3}; /* of each component */

static inline void policy_forward(const float *weights, const void *observation, float *state,
                                  float *scratch, float *logits, float *value) {
    const uint8_t *seen_uint8 = (const uint8_t *)observation;
    /* the policy */
    float *t1 = scratch + 0;
    for (int i2_0 = 0; i2_0 < 363; i2_0++)
        t1[i2_0] = (((float)seen_uint8[i2_0]) / 1.0f);
    /* first (Linear) */
    float *t3 = scratch + 368;
    net_linear(t3, t1, weights + 0, weights + 92928, 363, 256);
    /* the policy */
    float *t4 = scratch + 624;
    for (int i5_0 = 0; i5_0 < 256; i5_0++)
        t4[i5_0] = net_tanh(t3[i5_0]);
    /* actor.0 (Linear) */
    float *t6 = scratch + 880;
    net_linear(t6, t4, weights + 93184, weights + 109568, 128, 128);
    /* head.linear (Linear) */
    float *t7 = scratch + 1008;
    for (int i8_0 = 0; i8_0 < 128; i8_0++)
        t7[i8_0] = net_tanh(t6[i8_0]);
    float *t9 = scratch + 1136;
    net_linear(t9, t7, weights + 109696, weights + 110720, 128, 3);
    /* critic.0 (Linear) */
    float *t10 = scratch + 1152;
    net_linear(t10, t4 + 128, weights + 110736, weights + 127120, 128, 128);
    /* value (Linear) */
    float *t11 = scratch + 1280;
    for (int i12_0 = 0; i12_0 < 128; i12_0++)
        t11[i12_0] = net_tanh(t10[i12_0]);
    float *t13 = scratch + 1408;
    net_linear(t13, t11, weights + 127248, weights + 128272, 128, 1);
    for (int i14_0 = 0; i14_0 < 3; i14_0++)
        logits[i14_0] = t9[i14_0];
    value[0] = t13[0];
    (void)weights, (void)observation, (void)state, (void)scratch;
}

static inline void policy_act(const float *logits, const unsigned char *mask, uint64_t *random,
                              int greedy, void *action) {
    static const int low[] = {0};
    int64_t *chosen = (int64_t *)(void *)((char *)action + 0);
    for (int c = 0, at = 0; c < POLICY_COMPONENTS; at += POLICY_CATEGORIES[c++])
        chosen[c] = (int64_t)(low[c] + net_categorical(logits + at, mask ? mask + at : NULL, POLICY_CATEGORIES[c], random, greedy));
    (void)mask, (void)POLICY_CATEGORIES;
}

#endif
