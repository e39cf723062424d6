// The operator's keys for images: made once, read for a build, and what of them goes into the initrd, which takes no image without a signature by one of them.
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { AppError, lineOf } from '../errors.ts';
import type { CpioEntry } from './cpio.ts';
import { newKeyDirectory } from './key-directory.ts';
import { isEncrypted, newKey, parsePublicKey, parseSecretKey, publicKeyText, secretKeyText, type PublicKey, type SecretKey } from './minisign.ts';

/** Paths of the settings' `images`, or of the command line. */
export interface TrustFiles {
  /** The secret key. */
  readonly sign?: string;
  /** Public keys; default: the one beside `sign`. */
  readonly keys?: readonly string[];
  /** Serial of the oldest image that the initrd takes. */
  readonly floor?: number;
}

/** What a build signs with, and what its initrd trusts. */
export interface ImageTrust {
  readonly signer?: SecretKey;
  /** By id; none: the initrd verifies by the digest in its config alone. */
  readonly keys: readonly PublicKey[];
  readonly floor?: number;
}

const MINISIGN = 'minisign';
export const NO_TRUST: ImageTrust = { keys: [] };

/** Makes images.key and images.pub. The directory is 0700, the secret key 0600. It is there whole or not at all, and one that has anything in it is left alone (USAGE). */
export function makeImageKeys(dir: string): PublicKey {
  const made = newKeyDirectory(dir);
  try {
    const key = newKey();
    writeFileSync(join(made.temp, 'images.key'), secretKeyText(key), { mode: 0o600, flag: 'wx' });
    writeFileSync(join(made.temp, 'images.pub'), publicKeyText(key), { mode: 0o644, flag: 'wx' });
    made.keep();
    return { id: key.id, bytes: key.bytes };
  } finally {
    made.close();
  }
}

/**
 * Reads the keys that the files name. `password` is asked once, for a secret key that is encrypted. KEY_INVALID, also when the key that signs is none
 * of those that the initrd would trust: no node would boot such an image.
 */
export async function readTrust({ sign, keys = [], floor }: TrustFiles, password?: (file: string) => Promise<string | undefined>): Promise<ImageTrust> {
  const beside = sign === undefined ? [] : [publicBeside(sign)];
  const trusted = new Map<string, PublicKey>();
  for (const file of keys.length > 0 ? keys : beside) {
    const key = readPublicKey(file);
    const same = trusted.get(key.id);
    if (same && !Buffer.from(same.bytes).equals(key.bytes)) throw new AppError('KEY_INVALID', `${file}: another key with the id ${key.id}`, 'leave one of them out: a signature names its key by the id');
    trusted.set(key.id, key);
  }
  const known = [...trusted.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
  if (floor !== undefined && floor > Date.now() / 1000) throw new AppError('USAGE', `images.floor: ${floor} is in the future: no image that is built now has such a serial`, 'serials are seconds since 1970; rackseed image show NAME has those that there are');
  const limits = floor === undefined ? {} : { floor };
  if (sign === undefined) return { keys: known, ...limits };
  const signer = await readSecretKey(sign, password);
  const own = trusted.get(signer.id);
  if (!own || !Buffer.from(own.bytes).equals(signer.bytes)) throw new AppError('KEY_INVALID', `${sign} is key ${signer.id}, and the initrd would trust ${known.map(({ id }) => id).join(', ')} only`, `add its public half to images.keys: ${publicBeside(sign)}`);
  return { signer, keys: known, ...limits };
}

/** KEY_INVALID. */
export async function readSecretKey(file: string, password?: (file: string) => Promise<string | undefined>): Promise<SecretKey> {
  const text = readKeyFile(file);
  return parseSecretKey(text, file, isEncrypted(text) ? await password?.(file) : undefined);
}

/** KEY_INVALID. */
export function readPublicKey(file: string): PublicKey {
  return parsePublicKey(readKeyFile(file), file);
}

/** What the initrd stage looks at. Names and texts come from the keys alone: the same keys under other names make the same initrd. */
export function trustEntries({ keys, floor }: ImageTrust): CpioEntry[] {
  const file = (path: string, text: string): CpioEntry => ({ path: `etc/rackseed/${path}`, kind: 'file', mode: 0o644, data: Buffer.from(text) });
  return [...keys.map((key) => file(`keys/${key.id}.pub`, publicKeyText(key))), ...(floor === undefined ? [] : [file('floor', `${floor}\n`)])];
}

/** The image.yaml of a build whose initrd verifies signatures: that takes the image's own minisign. */
export function withMinisign<T extends { readonly packages: readonly string[] }>(spec: T, { keys }: ImageTrust): T {
  return keys.length === 0 || spec.packages.includes(MINISIGN) ? spec : { ...spec, packages: [...spec.packages, MINISIGN] };
}

/** What of it decides the initrd's bytes: who signs does not. undefined: nothing does. */
export function trustInput({ keys, floor }: ImageTrust): object | undefined {
  if (keys.length === 0 && floor === undefined) return undefined;
  return { keys: keys.map(publicKeyText), ...(floor === undefined ? {} : { floor }) };
}

/** `images.key` -> `images.pub`. */
export function publicBeside(secret: string): string {
  return join(dirname(secret), `${basename(secret).replace(/\.key$/, '')}.pub`);
}

/** The same words for both halves; a key is some 200 bytes, and a device or a large file is none. */
function readKeyFile(file: string): string {
  try {
    const found = statSync(file);
    if (!found.isFile() || found.size > 4096) throw new AppError('KEY_INVALID', `${file} is no key: not a file of a few lines`, 'name images.key or images.pub');
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw new AppError('KEY_INVALID', `${file}: ${(error as NodeJS.ErrnoException).code === 'ENOENT' ? 'no such file' : lineOf(error)}`, 'make keys: rackseed keys init images', error);
  }
}
