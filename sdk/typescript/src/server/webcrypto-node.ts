/** The Web Crypto API of Node, which is not global in Node 18. `package.json` says who gets this one. */
import { webcrypto as ofNode } from 'node:crypto';

export const webcrypto = ofNode as Crypto;
