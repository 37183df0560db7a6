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
    POLICY_WEIGHTS = 36384,    /* floats of weights.bin */
    POLICY_SCRATCH = 1056,    /* floats */
    POLICY_STATE = 0,        /* floats that an agent remembers; 0: none */
    POLICY_OBSERVATION = 16,  /* bytes of an agent's observation */
    POLICY_LOGITS = 2,       /* floats: the parameters of the distribution of actions */
    POLICY_ACTION = 8,       /* bytes of an action */
    POLICY_COMPONENTS = 1,   /* choices of an action */
    POLICY_CONTINUOUS = 0    /* continuous numbers of an action */
};

static const int POLICY_CATEGORIES[] = {2}; /* of each component */

static inline void policy_forward(const float *weights, const void *observation, float *state,
                                  float *scratch, float *logits, float *value) {
    const float *seen_float32 = (const float *)observation;
    /* first (Linear) */
    float *t1 = scratch + 0;
    net_linear(t1, seen_float32, weights + 0, weights + 1024, 4, 256);
    /* the policy */
    float *t2 = scratch + 256;
    for (int i3_0 = 0; i3_0 < 256; i3_0++)
        t2[i3_0] = net_tanh(t1[i3_0]);
    /* actor.0 (Linear) */
    float *t4 = scratch + 512;
    net_linear(t4, t2, weights + 1280, weights + 17664, 128, 128);
    /* head.linear (Linear) */
    float *t5 = scratch + 640;
    for (int i6_0 = 0; i6_0 < 128; i6_0++)
        t5[i6_0] = net_tanh(t4[i6_0]);
    float *t7 = scratch + 768;
    net_linear(t7, t5, weights + 17792, weights + 18816, 128, 2);
    /* critic.0 (Linear) */
    float *t8 = scratch + 784;
    net_linear(t8, t2 + 128, weights + 18832, weights + 35216, 128, 128);
    /* value (Linear) */
    float *t9 = scratch + 912;
    for (int i10_0 = 0; i10_0 < 128; i10_0++)
        t9[i10_0] = net_tanh(t8[i10_0]);
    float *t11 = scratch + 1040;
    net_linear(t11, t9, weights + 35344, weights + 36368, 128, 1);
    for (int i12_0 = 0; i12_0 < 2; i12_0++)
        logits[i12_0] = t7[i12_0];
    value[0] = t11[0];
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
