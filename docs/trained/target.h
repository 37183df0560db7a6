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
    POLICY_WEIGHTS = 44064,    /* floats of weights.bin */
    POLICY_SCRATCH = 1104,    /* floats */
    POLICY_STATE = 0,        /* floats that an agent remembers; 0: none */
    POLICY_OBSERVATION = 136,  /* bytes of an agent's observation */
    POLICY_LOGITS = 6,       /* floats: the parameters of the distribution of actions */
    POLICY_ACTION = 16,       /* bytes of an action */
    POLICY_COMPONENTS = 2,   /* choices of an action */
    POLICY_CONTINUOUS = 0    /* continuous numbers of an action */
};

static const int POLICY_CATEGORIES[] = {3, 3}; /* of each component */

static inline void policy_forward(const float *weights, const void *observation, float *state,
                                  float *scratch, float *logits, float *value) {
    const float *seen_float32 = (const float *)observation;
    /* the policy */
    float *t1 = scratch + 0;
    t1[0] = seen_float32[0];
    for (int i3_0 = 0; i3_0 < 12; i3_0++)
        t1[i3_0 + 1] = seen_float32[i3_0 + 1];
    for (int i4_0 = 0; i4_0 < 21; i4_0++)
        t1[i4_0 + 13] = seen_float32[i4_0 + 13];
    /* first (Linear) */
    float *t5 = scratch + 48;
    net_linear(t5, t1, weights + 0, weights + 8704, 34, 256);
    /* the policy */
    float *t6 = scratch + 304;
    for (int i7_0 = 0; i7_0 < 256; i7_0++)
        t6[i7_0] = net_tanh(t5[i7_0]);
    /* actor.0 (Linear) */
    float *t8 = scratch + 560;
    net_linear(t8, t6, weights + 8960, weights + 25344, 128, 128);
    /* head.linear (Linear) */
    float *t9 = scratch + 688;
    for (int i10_0 = 0; i10_0 < 128; i10_0++)
        t9[i10_0] = net_tanh(t8[i10_0]);
    float *t11 = scratch + 816;
    net_linear(t11, t9, weights + 25472, weights + 26496, 128, 6);
    /* critic.0 (Linear) */
    float *t12 = scratch + 832;
    net_linear(t12, t6 + 128, weights + 26512, weights + 42896, 128, 128);
    /* value (Linear) */
    float *t13 = scratch + 960;
    for (int i14_0 = 0; i14_0 < 128; i14_0++)
        t13[i14_0] = net_tanh(t12[i14_0]);
    float *t15 = scratch + 1088;
    net_linear(t15, t13, weights + 43024, weights + 44048, 128, 1);
    for (int i16_0 = 0; i16_0 < 6; i16_0++)
        logits[i16_0] = t11[i16_0];
    value[0] = t15[0];
    (void)weights, (void)observation, (void)state, (void)scratch;
}

static inline void policy_act(const float *logits, const unsigned char *mask, uint64_t *random,
                              int greedy, void *action) {
    static const int low[] = {0, 0};
    int64_t *chosen = (int64_t *)(void *)((char *)action + 0);
    for (int c = 0, at = 0; c < POLICY_COMPONENTS; at += POLICY_CATEGORIES[c++])
        chosen[c] = (int64_t)(low[c] + net_categorical(logits + at, mask ? mask + at : NULL, POLICY_CATEGORIES[c], random, greedy));
    (void)mask, (void)POLICY_CATEGORIES;
}

#endif
