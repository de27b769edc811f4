/* test_compile.cpp - the same as C++ (C++11 and later). */
#include "test_compile.c"
