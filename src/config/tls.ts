// The operator's certificate and key for HTTPS: read, and checked for what else would show only when a machine connects.
import { createPrivateKey, X509Certificate, type KeyObject } from 'node:crypto';
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { createSecureContext } from 'node:tls';
import { z } from 'zod';
import { lineOf, type Fault } from '../errors.ts';
import type { Place, YamlFile } from './document.ts';

export const tlsSchema = z.strictObject({
  port: z.number().int().min(1).max(65535).default(8443).describe('of HTTPS, on the same addresses'),
  cert: z.string().min(1).describe('PEM file of the certificate, its own first and then those that lead to its issuer; relative to this file'),
  key: z.string().min(1).describe('PEM file of its private key, without a passphrase; relative to this file'),
});

/** `http.tls` of rackseed.yaml: absolute paths, and where each stands, for faults that only show in the files. */
export interface TlsSettings {
  readonly port: number;
  readonly cert: string;
  readonly key: string;
  readonly at: { readonly file: string; readonly cert: Place; readonly key: Place };
}

/** PEM texts that belong together. */
export interface TlsPair {
  readonly cert: string;
  readonly key: string;
}

export interface TlsRead {
  /** Absent with faults. */
  readonly pair?: TlsPair;
  readonly faults: readonly Fault[];
}

export function tlsPlaces(yaml: YamlFile): TlsSettings['at'] {
  return { file: yaml.file, cert: yaml.place(['http', 'tls', 'cert']), key: yaml.place(['http', 'tls', 'key']) };
}

/** Never throws. */
export function readTls({ cert, key, at }: TlsSettings): TlsRead {
  const faultAt = (where: 'cert' | 'key', message: string, hint?: string): Fault => ({ file: at.file, ...at[where], message: `http.tls.${where}: ${message}`, ...(hint ? { hint } : {}) });
  const faults: Fault[] = [];
  const read = <T>(where: 'cert' | 'key', path: string, understand: (pem: string) => T): { pem: string; value: T } | undefined => {
    let pem: string;
    try {
      pem = readFileSync(path, 'utf8');
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      faults.push(code === 'ENOENT' ? faultAt(where, `${path}: no such file`) : faultAt(where, `${path} cannot be read: ${code ?? lineOf(error)}`, code === 'EACCES' ? 'it is read before root is given up, so root alone need read it' : undefined));
      return undefined;
    }
    try {
      return { pem, value: understand(pem) };
    } catch {
      const locked = /ENCRYPTED/.test(pem);
      faults.push(faultAt(where, locked ? `${path} has a passphrase, which nobody is there to type` : `${path} is no ${where === 'cert' ? 'certificate' : 'private key'} in PEM form`, locked ? `openssl pkey -in ${path} -out plain.pem` : undefined));
      return undefined;
    }
  };
  const certificate = read('cert', cert, (pem) => new X509Certificate(pem));
  const secret = read<KeyObject>('key', key, (pem) => createPrivateKey(pem));
  if (!certificate || !secret) return { faults };
  if (!certificate.value.checkPrivateKey(secret.value)) {
    return { faults: [faultAt('key', `${key} is not the key of ${cert}`, "the server's own certificate must stand first in its file, those of its issuers behind it")] };
  }
  try {
    // The whole file, as the server will read it: so far only the first certificate of a chain was looked at.
    createSecureContext({ cert: certificate.pem, key: secret.pem });
  } catch (error) {
    return { faults: [faultAt('cert', `${cert} cannot be used: ${lineOf(error)}`, 'is it whole? each certificate of the chain must be, and its key long enough')] };
  }
  return { pair: { cert: certificate.pem, key: secret.pem }, faults: [] };
}

/** All that is wrong with the files now, an end of validity too. Those that this user may not read are named: the daemon may, as root. */
export function checkTls(settings: TlsSettings, now = Date.now()): { readonly faults: readonly Fault[]; readonly unreadable: readonly string[] } {
  const unreadable = [settings.cert, settings.key].filter((path) => existsSync(path) && !mayRead(path));
  if (unreadable.length > 0) return { faults: [], unreadable };
  const { pair, faults } = readTls(settings);
  const late = pair && untimely(settings, pair, now);
  return { faults: late ? [late] : faults, unreadable };
}

function mayRead(path: string): boolean {
  try {
    accessSync(path, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

/** The pair is good, but not at this time; machines whose clock is wrong, or who have none, take it all the same. */
export function untimely({ cert: path, at }: TlsSettings, { cert }: TlsPair, now: number): Fault | undefined {
  const { validFrom, validTo } = new X509Certificate(cert);
  const fault = (message: string, hint: string): Fault => ({ file: at.file, ...at.cert, message: `http.tls.cert: ${path} ${message}`, hint });
  if (Date.parse(validTo) < now) return fault(`expired on ${validTo}`, 'renew it; rackseed reload takes the new one');
  return Date.parse(validFrom) > now ? fault(`is not valid before ${validFrom}`, 'is the clock of this machine right?') : undefined;
}
