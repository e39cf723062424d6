// Variables in EDK2's flash: laid out as its header says, only in a store that has none yet. That firmware obeys them is seen in test/e2e/uki.test.ts and links.test.ts.
import { describe, expect, test } from 'vitest';
import { ownKeys, vlanSetting, withVariables } from '../../src/lab/nvram.ts';

/** Only what is read of a volume: its header's length, and the store's header behind it. */
function emptyStore(): Buffer {
  const store = Buffer.alloc(1024, 0xff);
  store.writeUInt16LE(72, 0x30);
  store.write('782cf3aa7b949a43a1802e144ec37792', 72, 'hex');
  return store;
}
const bytes = (text: string) => Buffer.from(text);
const lists = { PK: bytes('pk'), KEK: bytes('kek!!'), db: bytes('db list') };

describe('withVariables', () => {
  test('writes each variable as VariableFormat.h has it, one behind the other from multiples of 4 on', () => {
    const store = emptyStore();
    const written = withVariables(store, [{ name: 'Ab', guid: '00112233445566778899aabbccddeeff', attributes: 0x03, data: bytes('xyz') }, { name: 'C', guid: 'ff'.repeat(16), attributes: 0x27, data: bytes('q') }]);
    const first = 72 + 28;
    expect(written.subarray(first, first + 72).toString('hex')).toBe(
      ['aa55', '3f', '00', '03000000', '00'.repeat(24), '00000000', '06000000', '03000000', '00112233445566778899aabbccddeeff', '410062000000', '78797a', 'ffffff'].join(''),
    );
    expect(written.subarray(first + 72, first + 76).toString('hex')).toBe('aa553f00');
    // A key has the time of its last write: EFI_TIME, the year first.
    expect(written.subarray(first + 72 + 16, first + 72 + 20).toString('hex')).toBe('e9070101');
    expect(written.length).toBe(store.length);
    expect(store.equals(emptyStore())).toBe(true);
  });

  test('refuses a store that has variables, and what is no store', () => {
    const once = withVariables(emptyStore(), ownKeys(lists));
    expect(() => withVariables(once, ownKeys(lists))).toThrow(RangeError);
    for (const other of [Buffer.alloc(0), Buffer.alloc(1024), Buffer.alloc(1024, 0xff)]) expect(() => withVariables(other, [])).toThrow(RangeError);
  });
});

test('a card has its VLANs under its MAC, 16 bits each', () => {
  const { name, data, attributes } = vlanSetting('52:54:00:4c:42:0a', 0x12a);
  expect([name, Buffer.from(data).toString('hex'), attributes]).toEqual(['5254004C420A', '2a01', 0x03]);
});

test('own keys are PK, KEK and db, and Secure Boot is switched on', () => {
  expect(ownKeys(lists).map(({ name, attributes, data }) => [name, attributes, Buffer.from(data).toString()])).toEqual([['PK', 0x27, 'pk'], ['KEK', 0x27, 'kek!!'], ['db', 0x27, 'db list'], ['SecureBootEnable', 0x03, '\u0001']]);
});
