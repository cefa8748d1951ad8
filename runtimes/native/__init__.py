"""C++ sources of the native operator library; see `runtimes.native_build`."""
