// minisign's files: Ed25519 keys and prehashed signatures, read and written so that the stock `minisign` takes them and ours take its.
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, randomBytes, sign as ed25519Sign, verify as ed25519Verify, type KeyObject } from 'node:crypto';
import { AppError } from '../errors.ts';
import { unlocked } from './minisign-password.ts';

export interface PublicKey {
  /** 16 hex digits in upper case, as minisign prints it. */
  readonly id: string;
  /** 32 bytes. */
  readonly bytes: Uint8Array;
}

export interface SecretKey extends PublicKey {
  /** 32 bytes. */
  readonly seed: Uint8Array;
}

/** What a good signature says of itself. */
export interface Signed {
  readonly key: PublicKey;
  /** Signed too. */
  readonly trustedComment: string;
}

/** Ed25519 keys, and signatures of a message's BLAKE2b-512 (`minisign -S`'s default; those of the message itself are `Ed`, and old). */
const KEY = 'Ed';
const PREHASHED = 'ED';
const COMMENT = 'untrusted comment: ';
const TRUSTED = 'trusted comment: ';
/** What stands before the 32 bytes in DER: PKCS #8's and SubjectPublicKeyInfo's frame for Ed25519 (RFC 8410). */
const PKCS8 = Buffer.from('302e020100300506032b657004220420', 'hex');
const SPKI = Buffer.from('302a300506032b6570032100', 'hex');
const CHECKSUM_KIND = 'B2';
const NO_KDF = '\0\0';

/** A new pair with an id at random, as minisign's are. */
export function newKey(): SecretKey {
  const { privateKey } = generateKeyPairSync('ed25519');
  const seed = privateKey.export({ format: 'der', type: 'pkcs8' }).subarray(PKCS8.length);
  return { id: idOf(randomBytes(8)), bytes: Uint8Array.from(publicOf(seed)), seed: Uint8Array.from(seed) };
}

/** The text of a `.pub` file. Equal keys have equal texts: the comment has nothing but the id. */
export function publicKeyText({ id, bytes }: PublicKey): string {
  return `${COMMENT}minisign public key ${id}\n${Buffer.concat([Buffer.from(KEY), idBytes(id), bytes]).toString('base64')}\n`;
}

/** The text of a `.key` file without a password, as `minisign -G -W` writes it; `minisign -C -s FILE` gives it one. */
export function secretKeyText({ id, bytes, seed }: SecretKey): string {
  // No password, hence no salt, no limits, and no checksum, which is there to find a wrong password by.
  const body = [Buffer.from(KEY + NO_KDF + CHECKSUM_KIND, 'latin1'), Buffer.alloc(32 + 8 + 8), idBytes(id), seed, bytes, Buffer.alloc(32)];
  return `${COMMENT}rackseed image key ${id}, not encrypted\n${Buffer.concat(body).toString('base64')}\n`;
}

/** `place` names the text in errors. KEY_INVALID. */
export function parsePublicKey(text: string, place: string): PublicKey {
  const lines = linesOf(text);
  // A bare line is what `minisign -P` takes.
  const body = decoded(lines.length === 1 ? lines[0] : lines[1]);
  if (body?.length !== 42 || lines.length > 2 || body.toString('latin1', 0, 2) !== KEY) throw invalid(place, 'no public key of minisign', `two lines, as in images.pub; ${hintFor(body)}`);
  return { id: idOf(body.subarray(2, 10)), bytes: Uint8Array.from(body.subarray(10)) };
}

/** Whether it needs a password; false also for what is no key at all. */
export function isEncrypted(text: string): boolean {
  const body = decoded(linesOf(text)[1]);
  return body?.length === 158 && body.toString('latin1', 2, 4) !== NO_KDF;
}

/** `place` names the text in errors; `password` matters for an encrypted key only. KEY_INVALID. */
export async function parseSecretKey(text: string, place: string, password?: string): Promise<SecretKey> {
  const lines = linesOf(text);
  const body = decoded(lines[1]);
  if (body?.length !== 158 || lines.length !== 2 || body.toString('latin1', 0, 2) !== KEY) throw invalid(place, 'no secret key of minisign', `two lines, as in images.key; ${hintFor(body)}`);
  const kept = isEncrypted(text) ? await unlocked(body, place, password) : body.subarray(54);
  const [id, seed, bytes] = [kept.subarray(0, 8), kept.subarray(8, 40), kept.subarray(40, 72)];
  if (!publicOf(seed).equals(bytes)) throw isEncrypted(text) ? invalid(place, 'the password is wrong', 'try again') : invalid(place, 'the two halves of the key do not fit', 'the file is damaged: take its copy');
  return { id: idOf(id), bytes: Uint8Array.from(bytes), seed: Uint8Array.from(seed) };
}

/** The text of a `.minisig` file. Equal input gives equal bytes. The comment is one line, at most 1000 characters. */
export function signatureText(message: Uint8Array, key: SecretKey, trustedComment: string): string {
  if (!/^[^\r\n\0]{0,1000}$/.test(trustedComment)) throw new AppError('BUG', 'a trusted comment of several lines');
  const secret = createPrivateKey({ key: Buffer.concat([PKCS8, key.seed]), format: 'der', type: 'pkcs8' });
  const signature = ed25519Sign(null, prehash(message), secret);
  const whole = ed25519Sign(null, Buffer.concat([signature, Buffer.from(trustedComment)]), secret);
  const body = Buffer.concat([Buffer.from(PREHASHED), idBytes(key.id), signature]);
  return `${COMMENT}signature by rackseed image key ${key.id}\n${body.toString('base64')}\n${TRUSTED}${trustedComment}\n${whole.toString('base64')}\n`;
}

/** SIGNATURE_INVALID unless the signature is of these bytes by one of the keys. `place` names the signature in errors. */
export function verifySignature(message: Uint8Array, signature: string, keys: readonly PublicKey[], place: string): Signed {
  const { id, ofMessage, trustedComment, ofComment } = parseSignature(signature, place);
  const key = keys.find((known) => known.id === id);
  if (!key) throw new AppError('SIGNATURE_INVALID', `${place}: signed by key ${id}`, `trusted ${keys.length === 1 ? 'is' : 'are'} ${keys.map((known) => known.id).join(', ') || 'none'}`);
  const known = publicObject(key.bytes);
  if (!ed25519Verify(null, prehash(message), known, ofMessage)) throw new AppError('SIGNATURE_INVALID', `${place}: it is not of these bytes`, 'what was signed, or the signature, was changed since');
  if (!ed25519Verify(null, Buffer.concat([ofMessage, Buffer.from(trustedComment)]), known, ofComment)) throw new AppError('SIGNATURE_INVALID', `${place}: its trusted comment was changed`, 'the comment is signed too');
  return { key, trustedComment };
}

/** The id of the key that a signature names; whether it did sign is verifySignature's to say. SIGNATURE_INVALID. */
export function signerOf(signature: string, place: string): string {
  return parseSignature(signature, place).id;
}

function parseSignature(text: string, place: string) {
  const lines = linesOf(text);
  const [first, body, trusted, ofComment] = [lines[0], decoded(lines[1]), lines[2], decoded(lines[3])];
  const refuse = (why: string, hint: string): never => {
    throw new AppError('SIGNATURE_INVALID', `${place}: ${why}`, hint);
  };
  if (!first?.startsWith(COMMENT) || body?.length !== 74 || !trusted?.startsWith(TRUSTED) || ofComment?.length !== 64 || lines.length !== 4) return refuse('no signature of minisign', 'four lines: a comment, the signature, a trusted comment, its signature');
  const kind = body.toString('latin1', 0, 2);
  if (kind !== PREHASHED) return refuse(kind === KEY ? 'a signature in the old form' : 'a signature of a kind that is not known', 'sign without -l: prehashed signatures are the default of minisign since 0.10');
  return { id: idOf(body.subarray(2, 10)), ofMessage: body.subarray(10), trustedComment: trusted.slice(TRUSTED.length), ofComment };
}

function prehash(message: Uint8Array): Buffer {
  return createHash('blake2b512').update(message).digest();
}

function publicObject(bytes: Uint8Array): KeyObject {
  return createPublicKey({ key: Buffer.concat([SPKI, bytes]), format: 'der', type: 'spki' });
}

function publicOf(seed: Uint8Array): Buffer {
  const key = createPrivateKey({ key: Buffer.concat([PKCS8, seed]), format: 'der', type: 'pkcs8' });
  return createPublicKey(key).export({ format: 'der', type: 'spki' }).subarray(SPKI.length);
}

/** minisign prints the 8 bytes as one little-endian number. */
function idOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).reverse().toString('hex').toUpperCase();
}

function idBytes(id: string): Buffer {
  return Buffer.from(id, 'hex').reverse();
}

function linesOf(text: string): string[] {
  return text.replace(/\r?\n$/, '').split(/\r?\n/);
}

/** undefined for what is no base64, all of it: Buffer.from reads on past anything. */
function decoded(line: string | undefined): Buffer | undefined {
  const bytes = Buffer.from(line ?? '', 'base64');
  return line !== undefined && line !== '' && bytes.toString('base64') === line ? bytes : undefined;
}

/** People mix up the two files of a pair. */
function hintFor(body: Buffer | undefined): string {
  return body?.length === 42 ? 'this is a public key' : body?.length === 158 ? 'this is a SECRET key: keep it off other machines' : body?.length === 74 ? 'this is a signature' : 'make keys: rackseed keys init images';
}

function invalid(place: string, why: string, hint: string): AppError {
  return new AppError('KEY_INVALID', `${place}: ${why}`, hint);
}
