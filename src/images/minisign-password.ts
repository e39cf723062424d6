// minisign's encrypted secret keys: libsodium's scryptsalsa208sha256 with the limits that stand in the file.
import { scrypt } from 'node:crypto';
import { promisify } from 'node:util';
import { AppError } from '../errors.ts';

/** crypto_pwhash_scryptsalsa208sha256's SENSITIVE limits, which minisign uses, take 1 GiB; whoever wants more has no key of minisign's. */
const MOST_MEMORY = 2 * 1024 ** 3;
const KEPT = 104;

/**
 * The 104 bytes of id, secret key and checksum. `body` is the file's, decoded, 158 bytes. With a wrong password they are noise: the caller finds that
 * out by the public key in them. Takes about 4 s and 1 GiB. KEY_INVALID.
 */
export async function unlocked(body: Buffer, place: string, password: string | undefined): Promise<Buffer> {
  if (body.toString('latin1', 2, 4) !== 'Sc') throw new AppError('KEY_INVALID', `${place}: encrypted in a way that is not known`, 'minisign itself may take the password off: minisign -C -W -s FILE');
  if (password === undefined) throw new AppError('KEY_INVALID', `${place} is encrypted, and nobody is there to ask for its password`, 'name a file that has it: RACKSEED_KEY_PASSWORD_FILE=FILE');
  const { N, r, p } = costs(Number(body.readBigUInt64LE(38)), Number(body.readBigUInt64LE(46)));
  const maxmem = 128 * r * (N + p) + 1024 * 1024;
  if (maxmem > MOST_MEMORY) throw new AppError('KEY_INVALID', `${place}: its password would take ${Math.round(maxmem / 1024 ** 2)} MiB of memory to check`, 'minisign makes no such keys: the file is damaged');
  const stream = await promisify<string, Buffer, number, object, Buffer>(scrypt)(password, body.subarray(6, 38), KEPT, { N, r, p, maxmem });
  return Buffer.from(body.subarray(54).map((byte, index) => byte ^ stream[index]!));
}

/** libsodium's pickparams(), operations and bytes of memory to scrypt's own three. */
function costs(operations: number, memory: number): { readonly N: number; readonly r: number; readonly p: number } {
  const r = 8;
  const most = Math.max(operations, 32768);
  const isBoundByTime = most < memory / 32;
  const largest = isBoundByTime ? most / (r * 4) : memory / (r * 128);
  let bits = 1;
  while (bits < 40 && 2 ** bits <= largest / 2) bits++;
  const N = 2 ** bits;
  return { N, r, p: isBoundByTime ? 1 : Math.max(1, Math.floor(Math.min(Math.floor(most / 4 / N), 0x3fffffff) / r)) };
}
