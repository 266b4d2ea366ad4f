package redis

// KeyPrefix begins every Redis key of Larder. The features append a letter for the kind of key, so that all keys can be read
// with redis-cli, and keep their keys injective: different arguments make different keys.
const KeyPrefix = "ld:"

// KeyRoom is the length of a buffer on the stack in which most keys fit.
const KeyRoom = 224
