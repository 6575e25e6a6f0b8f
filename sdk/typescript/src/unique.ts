/** Names that nobody else chooses: 32 hex digits. */
export function uniqueId(): string {
  const words = new Uint32Array(4);
  // Node 18 has no global `crypto`. `randomUUID` is not there in pages without TLS.
  if (globalThis.crypto) crypto.getRandomValues(words);
  else words.forEach((_, index) => (words[index] = Math.random() * 2 ** 32));
  return Array.from(words, (word) => word.toString(16).padStart(8, '0')).join('');
}
