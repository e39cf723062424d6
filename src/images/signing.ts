// Secure Boot with the operator's own keys: PK, KEK and db made and laid out for enrolment, and EFI programs signed with db's.
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmodSync, existsSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '../errors.ts';
import { newKeyDirectory } from './key-directory.ts';

/** Program -> the Debian package that has it. */
const PACKAGES: Readonly<Record<string, string>> = { openssl: 'openssl', 'cert-to-efi-sig-list': 'efitools', 'sign-efi-sig-list': 'efitools', sbsign: 'sbsigntool', sbverify: 'sbsigntool' };

/** What each key may change: PK itself and KEK, KEK db, db what boots (UEFI 2.10 section 32.3). */
const SIGNED_BY = { PK: 'PK', KEK: 'PK', db: 'KEK' } as const;
const NAMES = ['PK', 'KEK', 'db'] as const;
const YEARS = 10;

/**
 * Makes the three key pairs and, for enrolment, `.crt` (PEM), `.cer` (DER), `.esl` and `.auth` of each. RSA-2048, because older firmware takes nothing
 * longer. The directory is 0700, files are 0600. It is there whole or not at all, and one that has anything in it is left alone (USAGE).
 */
export async function makeSecureBootKeys(dir: string): Promise<void> {
  const made = newKeyDirectory(dir);
  const at = (file: string): string => join(made.temp, file);
  try {
    const owner = randomUUID();
    writeFileSync(at('owner.guid'), `${owner}\n`);
    for (const name of NAMES) {
      await tool('openssl', ['req', '-new', '-x509', '-newkey', 'rsa:2048', '-sha256', '-nodes', '-days', String(YEARS * 365), '-subj', `/CN=rackseed ${name} ${owner.slice(0, 8)}/`, '-keyout', at(`${name}.key`), '-out', at(`${name}.crt`)]);
      await tool('openssl', ['x509', '-in', at(`${name}.crt`), '-outform', 'DER', '-out', at(`${name}.cer`)]);
      await tool('cert-to-efi-sig-list', ['-g', owner, at(`${name}.crt`), at(`${name}.esl`)]);
    }
    for (const name of NAMES) {
      const by = SIGNED_BY[name];
      await tool('sign-efi-sig-list', ['-g', owner, '-k', at(`${by}.key`), '-c', at(`${by}.crt`), name, at(`${name}.esl`), at(`${name}.auth`)]);
    }
    for (const file of readdirSync(made.temp)) chmodSync(at(file), 0o600);
    made.keep();
  } finally {
    made.close();
  }
}

/** Signs the EFI program in place with `db.key` of the directory, and verifies that with `db.crt`. USAGE, PACKAGES_MISSING or IMAGE_BUILD_FAILED. */
export async function signEfi(file: string, keys: string): Promise<void> {
  const [key, certificate] = [join(keys, 'db.key'), join(keys, 'db.crt')];
  for (const path of [key, certificate]) if (!existsSync(path)) throw new AppError('USAGE', `--sign: ${path}: no such file`, 'make keys first: rackseed keys init secure-boot');
  const signed = `${file}.signed`;
  await tool('sbsign', ['--key', key, '--cert', certificate, '--output', signed, file]);
  await verifyEfi(signed, certificate);
  renameSync(signed, file);
}

/** IMAGE_BUILD_FAILED unless a signature on the program fits both its bytes and the certificate. */
export async function verifyEfi(file: string, certificate: string): Promise<void> {
  await tool('sbverify', ['--cert', certificate, file]);
}

function tool(program: string, args: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    execFile(program, args, { env: { ...process.env, LC_ALL: 'C' } }, (error, _stdout, stderr) => {
      if (!error) return resolve();
      const name = PACKAGES[program]!;
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return reject(new AppError('PACKAGES_MISSING', `${program} is not installed`, `apt-get install --no-install-recommends ${name}`, error));
      const words = stderr.trim().split('\n').at(-1) ?? '';
      reject(new AppError('IMAGE_BUILD_FAILED', `${program}: ${words || `ended with ${error.code ?? error.signal}`}`, `all that it said: ${stderr.trim().replace(/\s+/g, ' ').slice(0, 300)}`, error));
    });
  });
}
