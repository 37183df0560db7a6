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
    POLICY_OBSERVATION = 121,  /* bytes of an agent's observation */
    POLICY_LOGITS = 5,       /* floats: the parameters of the distribution of actions */
    POLICY_ACTION = 8,       /* bytes of an action */
    POLICY_COMPONENTS = 1,   /* choices of an action */
    POLICY_CONTINUOUS = 0    /* continuous numbers of an action */
};

static const int POLICY_CATEGORIES[] = {5}; /* of each component */

static inline void policy_forward(const float *weights, const void *observation, float *state,
                                  float *scratch, float *logits, float *value) {
    const uint8_t *seen_uint8 = (const uint8_t *)observation;
    /* the policy */
    int64_t t1[121];
    for (int i2_0 = 0; i2_0 < 121; i2_0++)
        t1[i2_0] = ((int64_t)seen_uint8[i2_0]);
    static const int64_t k3[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    int64_t t4[121];
    for (int i5_0 = 0; i5_0 < 121; i5_0++)
        t4[i5_0] = (t1[i5_0] - k3[i5_0]);
    static const int64_t k6[] = {0, 1, 2};
    uint8_t t7[363];
    for (int i8_1 = 0; i8_1 < 121; i8_1++)
        for (int i8_2 = 0; i8_2 < 3; i8_2++)
            t7[i8_1 * 3 + i8_2] = (t4[i8_1] == k6[i8_2]);
    /* first (Linear) */
    float *t9 = scratch + 0;
    for (int i10_0 = 0; i10_0 < 363; i10_0++)
        t9[i10_0] = ((float)t7[i10_0]);
    float *t11 = scratch + 368;
    net_linear(t11, t9, weights + 0, weights + 92928, 363, 256);
    /* the policy */
    float *t12 = scratch + 624;
    for (int i13_0 = 0; i13_0 < 256; i13_0++)
        t12[i13_0] = net_tanh(t11[i13_0]);
    /* actor.0 (Linear) */
    float *t14 = scratch + 880;
    net_linear(t14, t12, weights + 93184, weights + 109568, 128, 128);
    /* head.linear (Linear) */
    float *t15 = scratch + 1008;
    for (int i16_0 = 0; i16_0 < 128; i16_0++)
        t15[i16_0] = net_tanh(t14[i16_0]);
    float *t17 = scratch + 1136;
    net_linear(t17, t15, weights + 109696, weights + 110720, 128, 5);
    /* critic.0 (Linear) */
    float *t18 = scratch + 1152;
    net_linear(t18, t12 + 128, weights + 110736, weights + 127120, 128, 128);
    /* value (Linear) */
    float *t19 = scratch + 1280;
    for (int i20_0 = 0; i20_0 < 128; i20_0++)
        t19[i20_0] = net_tanh(t18[i20_0]);
    float *t21 = scratch + 1408;
    net_linear(t21, t19, weights + 127248, weights + 128272, 128, 1);
    for (int i22_0 = 0; i22_0 < 5; i22_0++)
        logits[i22_0] = t17[i22_0];
    value[0] = t21[0];
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
