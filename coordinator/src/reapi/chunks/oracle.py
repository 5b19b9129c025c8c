"""FastCDC as its paper says it, a byte at a time: lengths of the chunks of what is on standard input.

W. Xia and others, "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems", 2020, algorithm 2; that of
two bytes at a time has to find the same borders. The 256 numbers of the gear hash are, as in the authors' program, the first eight bytes
of the MD5 of 64 times the byte. A mask is taken from the published row of masks, which has one for each power of two of the average:
normalisation by n means that the one n places on is used before the average, and the one n places back after it.

Usage: oracle.py MINIMUM AVERAGE MAXIMUM LEVEL
"""

import hashlib
import sys

GEAR = [int.from_bytes(hashlib.md5(bytes([byte]) * 64).digest()[:8], "big") for byte in range(256)]
# From 64 bytes (2 to the power of 6) on.
MASKS = [
    0x0000000001803110, 0x0000000018035100, 0x0000001800035300, 0x0000019000353000, 0x0000590003530000, 0x0000D90003530000,
    0x0000D90103530000, 0x0000D90303530000, 0x0000D90313530000, 0x0000D90F03530000, 0x0000D90303537000, 0x0000D90703537000,
    0x0000D90707537000, 0x0000D91707537000, 0x0000D91747537000, 0x0000D91767537000, 0x0000D93767537000,
]


def border(data, minimum, average, maximum, level):
    """Where the first chunk ends."""
    if len(data) <= minimum:
        return len(data)
    end = min(len(data), maximum)
    power = average.bit_length() - 1 - 6
    strict, lax = MASKS[power + level], MASKS[power - level]
    fingerprint = 0
    # The last byte of an odd number of them is looked at by nobody who takes two at a time.
    for place in range(minimum, end - end % 2):
        fingerprint = ((fingerprint << 1) + GEAR[data[place]]) & 0xFFFFFFFFFFFFFFFF
        if fingerprint & (strict if place < min(average, end) else lax) == 0:
            return place
    return end


def main():
    minimum, average, maximum, level = map(int, sys.argv[1:])
    data = sys.stdin.buffer.read()
    start = 0
    while start < len(data):
        length = border(data[start:start + maximum], minimum, average, maximum, level)
        print(length)
        start += length


main()
