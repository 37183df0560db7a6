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
    POLICY_WEIGHTS = 117408,    /* floats of weights.bin */
    POLICY_SCRATCH = 1488,    /* floats */
    POLICY_STATE = 0,        /* floats that an agent remembers; 0: none */
    POLICY_OBSERVATION = 252,  /* bytes of an agent's observation */
    POLICY_LOGITS = 8,       /* floats: the parameters of the distribution of actions */
    POLICY_ACTION = 8,       /* bytes of an action */
    POLICY_COMPONENTS = 1,   /* choices of an action */
    POLICY_CONTINUOUS = 0    /* continuous numbers of an action */
};

static const int POLICY_CATEGORIES[] = {8}; /* of each component */

static inline void policy_forward(const float *weights, const void *observation, float *state,
                                  float *scratch, float *logits, float *value) {
    const float *seen_float32 = (const float *)observation;
    const uint8_t *seen_uint8 = (const uint8_t *)observation;
    /* the policy */
    float *t1 = scratch + 0;
    for (int i2_0 = 0; i2_0 < 40; i2_0++)
        t1[i2_0] = (((float)seen_uint8[i2_0 + 200]) / 1.0f);
    float *t3 = scratch + 48;
    for (int i4_0 = 0; i4_0 < 40; i4_0++)
        t3[i4_0] = t1[i4_0];
    for (int i5_0 = 0; i5_0 < 3; i5_0++)
        t3[i5_0 + 40] = seen_float32[i5_0 + 60];
    int64_t t6[200];
    for (int i7_0 = 0; i7_0 < 200; i7_0++)
        t6[i7_0] = ((int64_t)seen_uint8[i7_0]);
    static const int64_t k8[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    int64_t t9[200];
    for (int i10_0 = 0; i10_0 < 200; i10_0++)
        t9[i10_0] = (t6[i10_0] - k8[i10_0]);
    static const int64_t k11[] = {0, 1, 2, 3};
    uint8_t t12[800];
    for (int i13_1 = 0; i13_1 < 200; i13_1++)
        for (int i13_2 = 0; i13_2 < 4; i13_2++)
            t12[i13_1 * 4 + i13_2] = (t9[i13_1] == k11[i13_2]);
    float *t14 = scratch + 96;
    for (int i15_0 = 0; i15_0 < 43; i15_0++)
        t14[i15_0] = t3[i15_0];
    for (int i16_0 = 0; i16_0 < 800; i16_0++)
        t14[i16_0 + 43] = ((float)t12[i16_0]);
    /* first (Linear) */
    float *t17 = scratch + 944;
    net_linear(t17, t14, weights + 0, weights + 107904, 843, 128);
    /* the policy */
    float *t18 = scratch + 1072;
    for (int i19_0 = 0; i19_0 < 128; i19_0++)
        t18[i19_0] = net_tanh(t17[i19_0]);
    /* actor.0 (Linear) */
    float *t20 = scratch + 1200;
    net_linear(t20, t18, weights + 108032, weights + 112128, 64, 64);
    /* head.linear (Linear) */
    float *t21 = scratch + 1264;
    for (int i22_0 = 0; i22_0 < 64; i22_0++)
        t21[i22_0] = net_tanh(t20[i22_0]);
    float *t23 = scratch + 1328;
    net_linear(t23, t21, weights + 112192, weights + 112704, 64, 8);
    /* critic.0 (Linear) */
    float *t24 = scratch + 1344;
    net_linear(t24, t18 + 64, weights + 112720, weights + 116816, 64, 64);
    /* value (Linear) */
    float *t25 = scratch + 1408;
    for (int i26_0 = 0; i26_0 < 64; i26_0++)
        t25[i26_0] = net_tanh(t24[i26_0]);
    float *t27 = scratch + 1472;
    net_linear(t27, t25, weights + 116880, weights + 117392, 64, 1);
    for (int i28_0 = 0; i28_0 < 8; i28_0++)
        logits[i28_0] = t23[i28_0];
    value[0] = t27[0];
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
