//! The parakernel as a Linux program: one broker, many client processes. Not built yet; see the book.
