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
    POLICY_WEIGHTS = 42032,    /* floats of weights.bin */
    POLICY_SCRATCH = 1072,    /* floats */
    POLICY_STATE = 0,        /* floats that an agent remembers; 0: none */
    POLICY_OBSERVATION = 104,  /* bytes of an agent's observation */
    POLICY_LOGITS = 4,       /* floats: the parameters of the distribution of actions */
    POLICY_ACTION = 8,       /* bytes of an action */
    POLICY_COMPONENTS = 0,   /* choices of an action */
    POLICY_CONTINUOUS = 2    /* continuous numbers of an action */
};

static const int POLICY_CATEGORIES[] = {0}; /* of each component */

static inline void policy_forward(const float *weights, const void *observation, float *state,
                                  float *scratch, float *logits, float *value) {
    const float *seen_float32 = (const float *)observation;
    /* first (Linear) */
    float *t1 = scratch + 0;
    net_linear(t1, seen_float32, weights + 0, weights + 6656, 26, 256);
    /* the policy */
    float *t2 = scratch + 256;
    for (int i3_0 = 0; i3_0 < 256; i3_0++)
        t2[i3_0] = net_tanh(t1[i3_0]);
    /* actor.0 (Linear) */
    float *t4 = scratch + 512;
    net_linear(t4, t2, weights + 6912, weights + 23296, 128, 128);
    /* head.linear (Linear) */
    float *t5 = scratch + 640;
    for (int i6_0 = 0; i6_0 < 128; i6_0++)
        t5[i6_0] = net_tanh(t4[i6_0]);
    float *t7 = scratch + 768;
    net_linear(t7, t5, weights + 23424, weights + 24448, 128, 2);
    /* head (ActionHead) */
    float *t8 = scratch + 784;
    for (int i9_0 = 0; i9_0 < 2; i9_0++)
        t8[i9_0] = t7[i9_0];
    for (int i10_0 = 0; i10_0 < 2; i10_0++)
        t8[i10_0 + 2] = weights[i10_0 + 24464];
    /* critic.0 (Linear) */
    float *t11 = scratch + 800;
    net_linear(t11, t2 + 128, weights + 24480, weights + 40864, 128, 128);
    /* value (Linear) */
    float *t12 = scratch + 928;
    for (int i13_0 = 0; i13_0 < 128; i13_0++)
        t12[i13_0] = net_tanh(t11[i13_0]);
    float *t14 = scratch + 1056;
    net_linear(t14, t12, weights + 40992, weights + 42016, 128, 1);
    for (int i15_0 = 0; i15_0 < 4; i15_0++)
        logits[i15_0] = t8[i15_0];
    value[0] = t14[0];
    (void)weights, (void)observation, (void)state, (void)scratch;
}

static inline void policy_act(const float *logits, const unsigned char *mask, uint64_t *random,
                              int greedy, void *action) {
    static const float middle[] = {0.0f, 0.0f};
    static const float half[] = {1.0f, 1.0f};
    static const float least[] = {(-1.0f), (-1.0f)};
    static const float most[] = {1.0f, 1.0f};
    const float *mean = logits + 0;
    const float *log_std = mean + POLICY_CONTINUOUS;
    float *numbers = (float *)(void *)((char *)action + 0);
    for (int k = 0; k < POLICY_CONTINUOUS; k++)
        numbers[k] = net_gaussian(mean[k], log_std[k], 0, middle[k], half[k], least[k], most[k], random, greedy);
    (void)mask, (void)POLICY_CATEGORIES;
}

#endif
