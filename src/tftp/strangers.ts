// What those are told who send to the port of somebody else's transfer, and how often.
import { createBudget } from '../budget.ts';
import { decodeTftp, encodeTftp, TFTP_ERROR, TftpDecodeError } from './packet.ts';
import type { Slots } from './slots.ts';

/**
 * All strangers of one thread together, in packets: at once, and a second. Their addresses may be forged, and each with another one: without a bound
 * we would be a mirror that sends a packet for a packet to anybody. An honest stranger is a rare one: a late packet of a transfer that had our port before.
 */
export const ERRORS_TO_STRANGERS = { burst: 64, perSecond: 10 };

const NOT_YOURS = encodeTftp({ kind: 'error', code: TFTP_ERROR.unknownTransferId, message: 'this transfer is not yours' });

/** Counts a stranger's datagram, and gives the answer that he is to have, if any: RFC 1350 section 4 wants an ERROR 5. */
export function answersToStrangers(slots: Slots, now: () => number): (datagram: Uint8Array) => Uint8Array | undefined {
  const budget = createBudget<'all'>({ ...ERRORS_TO_STRANGERS, keys: 2 });
  return (datagram) => {
    try {
      const { kind } = decodeTftp(datagram);
      slots.stray('wrongTid');
      // An ERROR is never answered: two servers could go on for ever.
      return kind !== 'error' && budget.take('all', now()) ? NOT_YOURS : undefined;
    } catch (error) {
      if (!(error instanceof TftpDecodeError)) throw error;
      slots.stray('malformed');
      return undefined;
    }
  };
}
