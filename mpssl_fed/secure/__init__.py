"""Secure aggregation: the server learns the sum of at least m sites' updates and nothing else of them.

Double masking after Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017), over a
complete graph. Nothing here knows Flower, a config or an image: a site's side turns a vector of integers into a masked one, the
server's side sums masked ones and takes the masks off.
"""
