// The certificate of HTTPS as the daemon has it: read at start, and again at each reload, so that a renewed one needs no restart.
import { readTls, untimely, type TlsPair, type TlsSettings } from '../config/tls.ts';
import { FaultsError, formatFault, type Fault } from '../errors.ts';
import type { Log } from '../log.ts';

export interface Certificate {
  readonly pair: TlsPair;
  /** Reads the files again; undefined when they are no better, and then the pair that was good stays. */
  renew(): TlsPair | undefined;
  /** What is wrong with it now, for `/readyz`. */
  troubles(): readonly string[];
}

/**
 * CONFIG_INVALID with every fault. One that expired is logged and served: the rest of the daemon must start after a power cut, and many machines
 * have no clock to know it by.
 */
export function openCertificate(settings: TlsSettings, log: Log, now: () => number): Certificate {
  const first = readTls(settings);
  if (!first.pair) throw new FaultsError('CONFIG_INVALID', first.faults);
  let pair = first.pair;
  let faults: readonly Fault[] = [];
  const troubles = (): readonly Fault[] => [...faults, ...[untimely(settings, pair, now()) ?? []].flat()];
  const tell = (): void => {
    for (const fault of troubles()) log.error({ fault: formatFault(fault) }, 'the certificate of HTTPS is not in order');
  };
  tell();
  return {
    pair,
    renew() {
      const read = readTls(settings);
      faults = read.faults;
      pair = read.pair ?? pair;
      tell();
      return read.pair;
    },
    troubles: () => troubles().map(formatFault),
  };
}
