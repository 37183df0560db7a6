"""The C kernels of the trainers, on NumPy arrays."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

__all__ = ["advantages"]

cdef extern from "c/advantage.h" nogil:
    void shoal_advantages(
        float* advantages, const float* rewards, const float* values, const uint8_t* terminated,
        const uint8_t* truncated, const uint8_t* valid, const float* ratios, size_t segments,
        size_t horizon, double gamma, double gae_lambda, double rho, double c
    )


def advantages(
    float[:, ::1] out not None,
    const float[:, ::1] rewards not None,
    const float[:, ::1] values not None,
    const uint8_t[:, ::1] terminated not None,
    const uint8_t[:, ::1] truncated not None,
    const uint8_t[:, ::1] valid not None,
    const float[:, ::1] ratios,
    double gamma,
    double gae_lambda,
    double rho,
    double c,
):
    """Do what `trainers.advantage.advantages` says, which checked the shapes; ratios may be None."""
    cdef size_t segments = out.shape[0]
    cdef size_t horizon = out.shape[1]
    cdef const float* first_ratio = NULL
    if segments == 0 or horizon == 0:
        return
    if ratios is not None:
        first_ratio = &ratios[0, 0]
    with nogil:
        shoal_advantages(
            &out[0, 0], &rewards[0, 0], &values[0, 0], &terminated[0, 0], &truncated[0, 0],
            &valid[0, 0], first_ratio, segments, horizon, gamma, gae_lambda, rho, c
        )
