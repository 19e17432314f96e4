//! Histories that are written down: each shows one promise of membership or repair.
