// http.tls of rackseed.yaml: each fault of the files has the place of its key and says what to do.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkTls, readTls, untimely } from '../../src/config/tls.ts';
import { parseSettings } from '../../src/config/settings.ts';
import { openCertificate } from '../../src/daemon/certificate.ts';
import { FaultsError, formatFault } from '../../src/errors.ts';
import { createLog } from '../../src/log.ts';

const DAY = 86_400_000;
let dir: string;
let at: (name: string) => string;

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'rackseed-config-tls-'));
  at = (name) => join(dir, name);
  for (const name of ['own', 'other']) {
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '30', '-subj', `/CN=${name}`, '-keyout', at(`${name}.key`), '-out', at(`${name}.crt`)], { stdio: 'ignore' });
  }
  execFileSync('openssl', ['pkcs8', '-topk8', '-in', at('own.key'), '-passout', 'pass:x', '-out', at('locked.key')]);
  writeFileSync(at('chain.crt'), readFileSync(at('own.crt'), 'utf8') + readFileSync(at('other.crt'), 'utf8'));
  writeFileSync(at('upside-down.crt'), readFileSync(at('other.crt'), 'utf8') + readFileSync(at('own.crt'), 'utf8'));
  writeFileSync(at('cut.crt'), readFileSync(at('chain.crt'), 'utf8').slice(0, -100));
  writeFileSync(at('words.crt'), 'no certificate');
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const parse = (cert: string, key: string) => parseSettings(`http:\n  tls:\n    cert: ${cert}\n    key: ${key}\n`, at('rackseed.yaml')).http.tls!;

describe('the files of http.tls', () => {
  it('are found beside rackseed.yaml, and a good pair has no fault', () => {
    const settings = parse('own.crt', 'own.key');
    expect(settings).toMatchObject({ port: 8443, cert: at('own.crt'), key: at('own.key') });
    expect(readTls(settings)).toEqual({ pair: { cert: readFileSync(at('own.crt'), 'utf8'), key: readFileSync(at('own.key'), 'utf8') }, faults: [] });
    expect(readTls(parse('chain.crt', 'own.key')).pair).toBeDefined();
  });

  it.each([
    ['a certificate that is not there', 'none.crt', 'own.key', ['3:11: http.tls.cert: HERE/none.crt: no such file']],
    ['two files that are not there', 'none.crt', 'none.key', ['3:11: http.tls.cert: HERE/none.crt: no such file', '4:10: http.tls.key: HERE/none.key: no such file']],
    ['a directory', '.', 'own.key', ['3:11: http.tls.cert: HERE cannot be read: EISDIR']],
    ['text that is no certificate', 'words.crt', 'own.key', ['3:11: http.tls.cert: HERE/words.crt is no certificate in PEM form']],
    ['a chain that is cut off behind the first certificate', 'cut.crt', 'own.key', ['3:11: http.tls.cert: HERE/cut.crt cannot be used: OPENSSL']],
    ['a certificate in place of the key', 'own.crt', 'own.crt', ['4:10: http.tls.key: HERE/own.crt is no private key in PEM form']],
    ['a key with a passphrase', 'own.crt', 'locked.key', ['4:10: http.tls.key: HERE/locked.key has a passphrase, which nobody is there to type (openssl pkey -in HERE/locked.key -out plain.pem)']],
    ['the key of another certificate', 'own.crt', 'other.key', ["4:10: http.tls.key: HERE/other.key is not the key of HERE/own.crt (the server's own certificate must stand first in its file, those of its issuers behind it)"]],
    ['a chain in the wrong order', 'upside-down.crt', 'own.key', ["4:10: http.tls.key: HERE/own.key is not the key of HERE/upside-down.crt (the server's own certificate must stand first in its file, those of its issuers behind it)"]],
  ])('%s is a fault with its place', (_what, cert, key, expected) => {
    const { pair, faults } = readTls(parse(cert, key));
    expect(pair).toBeUndefined();
    expect(faults.map((fault) => formatFault(fault).replace(/(cannot be used: ).*/, '$1OPENSSL'))).toEqual(expected.map((text) => `${at('rackseed.yaml')}:${text.replaceAll('HERE', dir)}`));
  });

  it('out of its time it is served, and said to be', () => {
    const settings = parse('own.crt', 'own.key');
    const { pair } = readTls(settings);
    expect(untimely(settings, pair!, Date.now())).toBeUndefined();
    expect(untimely(settings, pair!, Date.now() + 31 * DAY)).toMatchObject({ line: 3, column: 11, message: expect.stringMatching(/own\.crt expired on /) });
    expect(untimely(settings, pair!, Date.now() - 3 * DAY)).toMatchObject({ message: expect.stringMatching(/own\.crt is not valid before /) });
    let now = Date.now();
    const certificate = openCertificate(settings, createLog('silent'), () => now);
    expect(certificate.troubles()).toEqual([]);
    now += 31 * DAY;
    expect(certificate.troubles()).toEqual([expect.stringMatching(/rackseed\.yaml:3:11: .* expired on /)]);
  });

  it('`rackseed check` tells an end of validity as a fault', () => {
    const settings = parse('own.crt', 'own.key');
    expect(checkTls(settings)).toEqual({ faults: [], unreadable: [] });
    expect(checkTls(settings, Date.now() + 31 * DAY).faults).toMatchObject([{ line: 3, message: expect.stringContaining('expired') }]);
    expect(checkTls(parse('own.crt', 'other.key')).faults).toHaveLength(1);
    expect(checkTls(parse('none.crt', 'own.key')).faults).toHaveLength(1);
  });

  it('a renewal that is broken leaves the old pair, and says so until it is mended', () => {
    for (const end of ['crt', 'key']) writeFileSync(at(`live.${end}`), readFileSync(at(`own.${end}`)));
    const certificate = openCertificate(parse('live.crt', 'live.key'), createLog('silent'), Date.now);
    writeFileSync(at('live.crt'), readFileSync(at('other.crt')));
    expect(certificate.renew()).toBeUndefined();
    expect(certificate.troubles()).toEqual([expect.stringContaining('is not the key of')]);
    writeFileSync(at('live.key'), readFileSync(at('other.key')));
    expect(certificate.renew()).toEqual({ cert: readFileSync(at('other.crt'), 'utf8'), key: readFileSync(at('other.key'), 'utf8') });
    expect(certificate.troubles()).toEqual([]);
  });

  it('broken ones keep the daemon from starting, with every fault', () => {
    expect(() => openCertificate(parse('none.crt', 'none.key'), createLog('silent'), Date.now)).toThrow(FaultsError);
  });

  it.each([
    ['the port of plain HTTP', 'http:\n  port: 8443\n  tls: { cert: a, key: b }\n', 'http.tls.port: 8443 is the port of plain HTTP'],
    ['no key', 'http:\n  tls: { cert: a }\n', 'http.tls.key: missing'],
    ['no such key of the settings', 'http:\n  tls: { cert: a, key: b, ca: c }\n', 'unknown key ca'],
  ])('%s is a fault of rackseed.yaml', (_what, text, message) => {
    try {
      parseSettings(text, at('rackseed.yaml'));
    } catch (error) {
      expect((error as FaultsError).faults.map((fault) => fault.message)).toEqual([message]);
      return;
    }
    throw new Error('no fault');
  });
});
