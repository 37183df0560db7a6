/* SHOAL_ASSERT: invariants, checked in sanitizer builds and with -DSHOAL_CHECKS; free otherwise. */
#ifndef SHOAL_ASSERT_H
#define SHOAL_ASSERT_H

#ifndef SHOAL_CHECKS
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SHOAL_CHECKS
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SHOAL_CHECKS
#endif
#endif
#endif

#ifdef SHOAL_CHECKS
#include <stdio.h>
#include <stdlib.h>
#define SHOAL_ASSERT(condition)                                                                    \
    ((condition)                                                                                   \
         ? (void)0                                                                                 \
         : (fprintf(stderr, "%s:%d: broken invariant: %s\n", __FILE__, __LINE__, #condition),      \
            abort()))
#else
#define SHOAL_ASSERT(condition) ((void)sizeof((condition) ? 1 : 0)) /* not evaluated */
#endif

#endif
