// exp, sigmoid, tanh and erf of a vector. The errors are stated in include/wordkiln/elementwise.h.
//
// exp(x) = 2^n exp(r) with n = round(x / ln 2), r = x - n ln 2 in two parts (Cody and Waite 1980), and
// exp(r) - 1 = r + r^2 p(r), p a Chebyshev fit of its degree on |r| <= ln 2 / 2. tanh goes through expm1 because
// 2 sigmoid(2x) - 1 loses all digits near 0.
#pragma once

#include "cpu/kernels/simd.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

template <typename T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float kRound = 0x1.8p23f + 127;  // adding it leaves the nearest integer + kBias in the low bits
  static constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 1.4286068203094173e-06f;
  static constexpr float kLog2E = 1.44269504088896341f;
  static constexpr float kSmallest = -87.33654f, kLargest = 89.0f;  // exp: least normal number; infinite
  static constexpr float kTanhOne = 9.1f;                           // tanh rounds to 1 from here
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kPolynomial[] = {0.0013926250831497611f, 0.008363232883682618f, 0.04166655421298415f,
                                          0.16666576666119928f, 0.5f};
  static constexpr float kPower[] = {0.0001545316294512069f, 0.0013390863364671234f, 0.009618082557277852f,
                                     0.05550357114219078f,   0.24022650760568126f,   0.6931471880262288f};
};

template <>
struct ExpConstants<double> {
  static constexpr double kRound = 0x1.8p52 + 1023;
  static constexpr double kLn2High = 0x1.62e42fefa3p-1, kLn2Low = 2.8235290563031577e-13;
  static constexpr double kLog2E = 1.44269504088896341;
  static constexpr double kSmallest = -708.3964185322641, kLargest = 710.0;
  static constexpr double kTanhOne = 19.1;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kPolynomial[] = {2.5100472505694996e-08, 2.7620201591031547e-07, 2.7557268276905696e-06,
                                           2.4801521057868204e-05, 0.00019841269863171557, 0.0013888888917367081,
                                           0.008333333333330039,   0.041666666666623824,   0.16666666666666669,
                                           0.5000000000000001};
  static constexpr double kPower[] = {4.4549605981865186e-10, 7.072585949269223e-09, 1.0178062445845774e-07,
                                      1.321544258792169e-06,  1.525273382983612e-05, 0.0001540353044173605,
                                      0.0013333558146416936,  0.009618129107606888,  0.0555041086648216,
                                      0.24022650695910097,    0.6931471805599453};
};

// erf(x) = x p(x^2) / q(x^2), a minimax fit of the relative error where |x| < kOne: 2e-8 and 3e-17. No coefficient is
// negative, so nothing cancels; and one formula for all x costs half of a branch with an exp.
template <typename T>
struct ErfConstants;

template <>
struct ErfConstants<float> {
  static constexpr float kOne = 3.92f;  // erf rounds to 1 from here
  static constexpr float kNumerator[] = {2.04619050133496e-06f, 0.00028482416250803164f, 0.003771675583060457f,
                                         0.05276661485562193f,  0.19057333260473633f,    1.1283791463411954f};
  static constexpr float kDenominator[] = {3.804844649362067e-05f, 0.0011636459354644453f, 0.014981452054822098f,
                                           0.1141742924990245f,    0.5022239552504714f,    1.0f};
};

template <>
struct ErfConstants<double> {
  static constexpr double kOne = 5.9215871957945083;
  static constexpr double kNumerator[] = {1.576221008716377e-17,  2.2311766142619674e-14, 3.3375950440214594e-12,
                                          1.7181174689651162e-10, 6.75441104067549e-09,   1.6928222884497122e-07,
                                          3.8973565549103545e-06, 5.688591534063102e-05,  0.0008551985931692372,
                                          0.006884384001804545,   0.06610481643049755,    0.22007691837539622,
                                          1.1283791670955126};
  static constexpr double kDenominator[] = {8.873698232563771e-16,
                                            3.3231301071448824e-13,
                                            2.548085892457774e-11,
                                            1.1235649879320186e-09,
                                            3.51201715232837e-08,
                                            8.342060174881391e-07,
                                            1.548482580635863e-05,
                                            0.00022592131845009504,
                                            0.0025631303073193547,
                                            0.021976066618620213,
                                            0.13470767624560928,
                                            0.528371424068276,
                                            1.0};
};

// x = n ln 2 + r, and expm1 = exp(r) - 1.
template <typename T>
struct Reduced {
  typename Simd<T>::Int n;  // with kRound above it
  Vec<T> expm1;
};

template <typename T>
WORDKILN_INLINE Reduced<T> reduce(Vec<T> x) {
  typedef ExpConstants<T> C;
  typedef typename Simd<T>::Int Int;
  const Vec<T> shifted = x * C::kLog2E + C::kRound;
  const Vec<T> n = shifted - C::kRound;
  const Vec<T> r = (x - n * C::kLn2High) - n * C::kLn2Low;
  Vec<T> p = broadcast<T>(C::kPolynomial[0]);
  WORDKILN_UNROLL
  for (unsigned i = 1; i < sizeof C::kPolynomial / sizeof(T); ++i) p = p * r + C::kPolynomial[i];
  return {(Int)shifted, r + r * r * p};
}

// 2^n for -kBias < n <= kBias, n with kRound above it: its bias is that of an exponent, what else it has is shifted
// out.
template <typename T>
WORDKILN_INLINE Vec<T> power_of_two(typename Simd<T>::Int n) {
  return (Vec<T>)(n << ExpConstants<T>::kMantissa);
}

template <typename T>
WORDKILN_INLINE Vec<T> exp(Vec<T> x) {
  typedef ExpConstants<T> C;
  typedef typename Simd<T>::Int Int;
  const Reduced<T> y = reduce<T>(min<T>(broadcast(C::kLargest), x));
  // 2^n in two factors: n reaches kBias + 1.
  const Int round = (Int)broadcast<T>(C::kRound), half = (y.n - round) >> 1;
  const Vec<T> result = (y.expm1 + T{1}) * power_of_two<T>(round + half) * power_of_two<T>(y.n - half);
  return x < C::kSmallest ? Vec<T>{} : result;
}

// 2^x for x <= kBias; 0 below the normal numbers. 2^r - 1 = r p(r), p a Chebyshev fit on |r| <= 1/2.
template <typename T>
WORDKILN_INLINE Vec<T> exp2(Vec<T> x) {
  typedef ExpConstants<T> C;
  typedef typename Simd<T>::Int Int;
  const Vec<T> shifted = x + C::kRound;
  const Vec<T> r = x - (shifted - C::kRound);
  Vec<T> p = broadcast<T>(C::kPower[0]);
  WORDKILN_UNROLL
  for (unsigned i = 1; i < sizeof C::kPower / sizeof(T); ++i) p = p * r + C::kPower[i];
  const Vec<T> result = (p * r + T{1}) * power_of_two<T>((Int)shifted);
  return x < T{1 - C::kBias} ? Vec<T>{} : result;
}

// 1 / (1 + exp(-x)); -x is kept where 2^n, the denominator and its reciprocal are normal numbers.
template <typename T>
WORDKILN_INLINE Vec<T> sigmoid(Vec<T> x) {
  typedef ExpConstants<T> C;
  const Vec<T> kept = min<T>(broadcast(-C::kSmallest), max<T>(broadcast(C::kSmallest), x));
  const Reduced<T> y = reduce<T>(-kept);
  const Vec<T> result = reciprocal<T>((y.expm1 + T{1}) * power_of_two<T>(y.n) + T{1});
  return x < C::kSmallest ? Vec<T>{} : result;
}

template <typename T>
WORDKILN_INLINE Vec<T> tanh(Vec<T> x) {
  typedef ExpConstants<T> C;
  typedef typename Simd<T>::Int Int;
  const Int sign = (Int)x & (Int)broadcast(-T{0});
  const Reduced<T> y = reduce<T>(T{2} * min<T>(broadcast(C::kTanhOne), (Vec<T>)((Int)x ^ sign)));
  const Vec<T> scale = power_of_two<T>(y.n);
  const Vec<T> e = scale * y.expm1 + (scale - T{1});
  return (Vec<T>)((Int)(e * reciprocal<T>(e + T{2})) | sign);
}

template <typename T>
WORDKILN_INLINE Vec<T> erf(Vec<T> x) {
  typedef ErfConstants<T> C;
  const Vec<T> square = x * x;
  Vec<T> p = broadcast<T>(C::kNumerator[0]), q = broadcast<T>(C::kDenominator[0]);
  WORDKILN_UNROLL
  for (unsigned i = 1; i < sizeof C::kNumerator / sizeof(T); ++i) {
    p = p * square + C::kNumerator[i];
    q = q * square + C::kDenominator[i];
  }
  const Vec<T> result = x * p * reciprocal<T>(q);
  const Vec<T> low = x <= -C::kOne ? broadcast<T>(T{-1}) : result;
  return x >= C::kOne ? broadcast<T>(T{1}) : low;
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
