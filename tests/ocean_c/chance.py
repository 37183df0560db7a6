"""The generator of the C environments, written again from its papers, for the tests' own games."""

MASK = 2**32 - 1


class Chance:
    """splitmix64 (Steele, Lea and Flood 2014) seeds xoshiro128++ (Blackman and Vigna 2019)."""

    def __init__(self, seed: int):
        self.s: list[int] = []
        for _ in range(2):
            seed = (seed + 0x9E3779B97F4A7C15) % 2**64
            z = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
            z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
            z ^= z >> 31
            self.s += [z & MASK, z >> 32]

    @classmethod
    def at(cls, words) -> "Chance":
        """One that goes on from the four words of a state."""
        chance = cls(0)
        chance.s = [int(word) for word in words]
        return chance

    def bits(self) -> int:
        a, b, c, d = self.s
        total = (a + d) & MASK
        result = ((total << 7 | total >> 25) + a) & MASK
        c, d = c ^ a, d ^ b
        b, a = b ^ c, a ^ d
        self.s = [a, b, c ^ (self.s[1] << 9 & MASK), (d << 11 | d >> 21) & MASK]
        return result

    def below(self, count: int) -> int:
        """0 to count - 1, by Lemire's method (2019)."""
        while True:
            product = self.bits() * count
            if product & MASK >= 2**32 % count:
                return product >> 32

    def between(self, low: float, high: float) -> float:
        """Uniform, in 2**24 steps."""
        return low + (high - low) * (self.bits() >> 8) / 2**24
