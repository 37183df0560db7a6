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
    POLICY_WEIGHTS = 48928,    /* floats of weights.bin */
    POLICY_SCRATCH = 1120,    /* floats */
    POLICY_STATE = 0,        /* floats that an agent remembers; 0: none */
    POLICY_OBSERVATION = 212,  /* bytes of an agent's observation */
    POLICY_LOGITS = 7,       /* floats: the parameters of the distribution of actions */
    POLICY_ACTION = 24,       /* bytes of an action */
    POLICY_COMPONENTS = 3,   /* choices of an action */
    POLICY_CONTINUOUS = 0    /* continuous numbers of an action */
};

static const int POLICY_CATEGORIES[] = {2, 3, 2}; /* of each component */

static inline void policy_forward(const float *weights, const void *observation, float *state,
                                  float *scratch, float *logits, float *value) {
    const float *seen_float32 = (const float *)observation;
    /* the policy */
    float *t1 = scratch + 0;
    for (int i2_0 = 0; i2_0 < 5; i2_0++)
        t1[i2_0] = seen_float32[i2_0];
    for (int i3_0 = 0; i3_0 < 48; i3_0++)
        t1[i3_0 + 5] = seen_float32[i3_0 + 5];
    /* first (Linear) */
    float *t4 = scratch + 64;
    net_linear(t4, t1, weights + 0, weights + 13568, 53, 256);
    /* the policy */
    float *t5 = scratch + 320;
    for (int i6_0 = 0; i6_0 < 256; i6_0++)
        t5[i6_0] = net_tanh(t4[i6_0]);
    /* actor.0 (Linear) */
    float *t7 = scratch + 576;
    net_linear(t7, t5, weights + 13824, weights + 30208, 128, 128);
    /* head.linear (Linear) */
    float *t8 = scratch + 704;
    for (int i9_0 = 0; i9_0 < 128; i9_0++)
        t8[i9_0] = net_tanh(t7[i9_0]);
    float *t10 = scratch + 832;
    net_linear(t10, t8, weights + 30336, weights + 31360, 128, 7);
    /* critic.0 (Linear) */
    float *t11 = scratch + 848;
    net_linear(t11, t5 + 128, weights + 31376, weights + 47760, 128, 128);
    /* value (Linear) */
    float *t12 = scratch + 976;
    for (int i13_0 = 0; i13_0 < 128; i13_0++)
        t12[i13_0] = net_tanh(t11[i13_0]);
    float *t14 = scratch + 1104;
    net_linear(t14, t12, weights + 47888, weights + 48912, 128, 1);
    for (int i15_0 = 0; i15_0 < 7; i15_0++)
        logits[i15_0] = t10[i15_0];
    value[0] = t14[0];
    (void)weights, (void)observation, (void)state, (void)scratch;
}

static inline void policy_act(const float *logits, const unsigned char *mask, uint64_t *random,
                              int greedy, void *action) {
    static const int low[] = {0, 0, 0};
    int64_t *chosen = (int64_t *)(void *)((char *)action + 0);
    for (int c = 0, at = 0; c < POLICY_COMPONENTS; at += POLICY_CATEGORIES[c++])
        chosen[c] = (int64_t)(low[c] + net_categorical(logits + at, mask ? mask + at : NULL, POLICY_CATEGORIES[c], random, greedy));
    (void)mask, (void)POLICY_CATEGORIES;
}

#endif
