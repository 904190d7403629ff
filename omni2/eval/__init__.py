"""Measuring: word error rate, right answers, codec quality."""
