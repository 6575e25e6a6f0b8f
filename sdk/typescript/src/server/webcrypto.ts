/** The Web Crypto API where it is global: pages, edge runtimes, workers. */
export const webcrypto: Crypto = globalThis.crypto;
