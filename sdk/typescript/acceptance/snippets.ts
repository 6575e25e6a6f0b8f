/** The code in documents, so that what a reader copies is what the tests run. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const ROOT = join(import.meta.dirname, '../../..');

/** Documents, by their place in the repository. */
export const GUIDE = 'docs/vercel.md';
export const OPERATING = 'docs/operating.md';
export const SDK_README = 'sdk/typescript/README.md';
export const ARTICLE = 'sdk/typescript/acceptance/article.md';

/** The blocks of a language in a document. @throws where there is none. */
export function snippets(document: string, language: string): string[] {
  const text = readFileSync(join(ROOT, document), 'utf8');
  const found = [...text.matchAll(new RegExp('^```' + language + '\n([^]*?)^```$', 'gm'))].map(
    ([, code]) => code!,
  );
  if (!found.length) throw new Error(`${document} has no ${language}`);
  return found;
}

/** The one block that contains a text. */
export function snippet(document: string, language: string, containing: string): string {
  const found = snippets(document, language).filter((code) => code.includes(containing));
  if (found.length !== 1)
    throw new Error(`${document} has ${found.length} blocks of ${language} with ${containing}`);
  return found[0]!;
}
