#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The handshake: each option, each way to get it wrong, each cap."""
import struct

from wire import *


class Handshake(Case):
    def haggler(self, structured=False):
        client = self.client()
        client.greet()
        if structured:
            self.assertEqual(client.haggle(OPT_STRUCTURED_REPLY)[0], REP_ACK)
        return client

    def test_greeting_offers_fixed_newstyle_and_no_zeroes(self):
        """Both handshake flags, and no other."""
        self.assertEqual(self.client().greet(), 3)

    def test_client_flags_unknown_bit_drops(self):
        """An unknown client flag MUST end the connection."""
        for bit in (2, 3, 15, 16, 31):
            client = self.client()
            client.greet(3 | 1 << bit)
            self.assertTrue(client.is_closed())

    def test_client_flags_without_fixed_allow_only_export_name(self):
        """Without fixed newstyle, EXPORT_NAME works and every other option ends the connection."""
        client = self.client()
        client.greet(0)
        client.option(OPT_EXPORT_NAME, self.export.encode())
        size, flags, zeroes = struct.unpack(">QH124s", client.receive(134))
        self.assertGreater(size, 0)
        self.assertTrue(flags & 1)
        self.assertEqual(zeroes, bytes(124))
        self.assertEqual(client.error(FLUSH), 0)
        for option in (OPT_LIST, OPT_GO, OPT_ABORT, 99):
            client = self.client()
            client.greet(2)
            client.option(option)
            self.assertTrue(client.is_closed())

    def test_option_bad_magic_drops(self):
        """Garbage instead of an option ends the connection."""
        client = self.haggler()
        client.option(OPT_LIST, magic=b"IHAVEOPS")
        self.assertTrue(client.is_closed())

    def test_option_unknown_unsup(self):
        """Unknown options, with data or not, get ERR_UNSUP, and haggling goes on."""
        client = self.haggler()
        for option in (0, 4, 11, 12, 77, 0xffffffff):
            for data in (b"", b"x", bytes(4096)):
                self.assertEqual(client.haggle(option, data)[0], ERR_UNSUP)
        self.assertEqual(client.haggle(OPT_LIST)[0], REP_ACK)

    def test_option_too_long_too_big(self):
        """Data above what any option needs is discarded: ERR_TOO_BIG, and haggling goes on."""
        client = self.haggler()
        for option in (OPT_GO, OPT_LIST, OPT_SET_META, 77):
            for n in (16 * KiB + 1, 64 * KiB):
                self.assertEqual(client.haggle(option, bytes(n))[0], ERR_TOO_BIG)
        self.assertEqual(client.info(self.export)[0], REP_ACK)

    def test_option_length_huge_drops(self):
        """An announced length that can only be an attack ends the connection at once."""
        for length in (64 * KiB + 1, 0x7fffffff, 0xffffffff):
            client = self.haggler()
            client.option(OPT_GO, b"", length)
            self.assertTrue(client.is_closed())

    def test_option_count_capped(self):
        """Nobody haggles for ever: the 1025th option ends the connection."""
        client = self.haggler()
        for _ in range(1024):
            self.assertEqual(client.haggle(77)[0], ERR_UNSUP)
        client.option(77)
        self.assertTrue(client.is_closed())

    def test_abort_acked_then_closed(self):
        """ABORT MUST be acknowledged, data or not, and then the connection ends."""
        for data in (b"", b"some words"):
            client = self.haggler()
            self.assertEqual(client.haggle(OPT_ABORT, data)[0], REP_ACK)
            self.assertTrue(client.is_closed())

    def test_list_names_export(self):
        """LIST names what there is; each name is well formed."""
        rep, servers = self.haggler().haggle(OPT_LIST)
        self.assertEqual(rep, REP_ACK)
        for kind, data in servers:
            self.assertEqual(kind, REP_SERVER)
            self.assertEqual(struct.unpack(">I", data[:4])[0], len(data) - 4)
        self.assertGreater(len(servers), 0)

    def test_dataless_options_with_data_invalid(self):
        """LIST, STRUCTURED_REPLY and STARTTLS take no data."""
        client = self.haggler()
        for option in (OPT_LIST, OPT_STRUCTURED_REPLY, OPT_STARTTLS):
            self.assertEqual(client.haggle(option, b"x")[0], ERR_INVALID)
            self.assertEqual(client.haggle(option, bytes(1000))[0], ERR_INVALID)
        self.assertEqual(client.haggle(OPT_LIST)[0], REP_ACK)

    def test_starttls_unsup(self):
        """Without TLS, STARTTLS is refused and haggling goes on."""
        client = self.haggler()
        self.assertEqual(client.haggle(OPT_STARTTLS)[0], ERR_UNSUP)
        self.assertEqual(client.info(self.export, OPT_GO)[0], REP_ACK)

    def test_structured_reply_twice_invalid(self):
        """The second STRUCTURED_REPLY is refused; the first holds."""
        client = self.haggler(structured=True)
        self.assertEqual(client.haggle(OPT_STRUCTURED_REPLY)[0], ERR_INVALID)
        self.assertEqual(client.info(self.export, OPT_GO)[0], REP_ACK)
        client.structured = True
        self.assertEqual(len(client.read(0, 512)), 512)


class Names(Case):
    def test_go_truncated_anywhere_invalid(self):
        """INFO and GO cut at any byte get ERR_INVALID, and haggling goes on."""
        whole = go_data("some-name", [0, 1, 2, 3])
        for option in (OPT_INFO, OPT_GO):
            client = self.client()
            client.greet()
            for n in range(len(whole)):
                self.assertEqual(client.haggle(option, whole[:n])[0], ERR_INVALID)
            self.assertEqual(client.info(self.export)[0], REP_ACK)

    def test_go_inconsistent_lengths_invalid(self):
        """Counts and lengths that do not add up get ERR_INVALID."""
        client = self.client()
        client.greet()
        for data in (struct.pack(">I", 0xffffffff) + b"name\0\0",
                     struct.pack(">I", 5) + b"name\0\0",
                     string("name") + struct.pack(">HH", 2, 3),
                     string("name") + struct.pack(">H", 0xffff),
                     string("name") + struct.pack(">HH", 0, 3),
                     go_data("name", [3]) + b"\0"):
            for option in (OPT_INFO, OPT_GO):
                self.assertEqual(client.haggle(option, data)[0], ERR_INVALID)
        self.assertEqual(client.info(self.export)[0], REP_ACK)

    def test_name_length_limit(self):
        """A name of 4096 bytes is merely unknown; a longer one, or a NUL in it, is invalid."""
        client = self.client()
        client.greet()
        self.assertEqual(client.info("n" * 4096)[0], ERR_UNKNOWN)
        self.assertEqual(client.info("n" * 4097)[0], ERR_INVALID)
        self.assertEqual(client.info("a\0b")[0], ERR_INVALID)
        self.assertEqual(client.info("\0")[0], ERR_INVALID)
        self.assertEqual(client.info(self.export)[0], REP_ACK)

    def test_go_unknown_export(self):
        """An unknown name gets ERR_UNKNOWN and no information; the next name may be right."""
        client = self.client()
        client.greet()
        for option in (OPT_INFO, OPT_GO):
            self.assertEqual(client.info("no such export", option), (ERR_UNKNOWN, {}))
        self.assertEqual(client.info(self.export, OPT_GO)[0], REP_ACK)
        self.assertEqual(client.error(FLUSH), 0)

    def test_export_name_bad_closes(self):
        """EXPORT_NAME has no way to say no but to hang up."""
        for name in (b"no such export", b"a\0b", bytes(5000), b"n" * 4097, b"n" * 20000):
            client = self.client()
            client.greet()
            client.option(OPT_EXPORT_NAME, name)
            self.assertTrue(client.is_closed())

    def test_export_name_no_zeroes(self):
        """With NO_ZEROES agreed on, the reply is 10 bytes and transmission begins."""
        client = self.client()
        client.greet(3)
        client.option(OPT_EXPORT_NAME, self.export.encode())
        size, flags = struct.unpack(">QH", client.receive(10))
        self.assertFalse(flags & 1 << 7, "DF without structured replies")
        self.assertEqual(client.error(READ, size - 512, 512), 0)

    def test_info_then_go_tell_the_same(self):
        """The same question gets the same answer from INFO and GO."""
        client = self.client()
        client.greet()
        first = client.info(self.export, OPT_INFO, [0, 1, 2, 3, 9, 3])
        second = client.info(self.export, OPT_GO, [0, 1, 2, 3, 9, 3])
        self.assertEqual(first, second)
        self.assertEqual(first[0], REP_ACK)

    def test_info_block_sizes(self):
        """512 / 4096 / 32 MiB, asked for or not."""
        client = self.client()
        client.greet()
        for infos in ([], [3]):
            sizes = client.info(self.export, OPT_INFO, infos)[1][3]
            self.assertEqual(struct.unpack(">III", sizes), (512, 4096, 32 * MiB))

    def test_info_name_and_description_on_request(self):
        """NAME and DESCRIPTION come only when asked for; the name is the canonical one."""
        client = self.client()
        client.greet()
        answers = client.info(self.export)[1]
        self.assertNotIn(1, answers)
        self.assertNotIn(2, answers)
        answers = client.info(self.export, OPT_INFO, [1, 2])[1]
        name = answers[1].decode()
        self.assertEqual(client.info(name, OPT_INFO, [1])[1][1].decode(), name)

    def test_flags_df_only_with_structured_replies(self):
        """SEND_DF is clear unless structured replies are on; the rest is all there."""
        plain = self.into().flags
        structured = self.into(structured=True).flags
        self.assertFalse(plain & 1 << 7)
        self.assertEqual(structured, plain | 1 << 7)
        for bit in (0, 2, 3, 5, 6, 10, 11):
            self.assertTrue(plain & 1 << bit, bit)


class MetaContexts(Case):
    def haggler(self):
        client = self.client()
        client.greet()
        self.assertEqual(client.haggle(OPT_STRUCTURED_REPLY)[0], REP_ACK)
        client.structured = True
        return client

    def contexts(self, client, option, queries, name=None):
        name = self.export if name is None else name
        rep, before = client.haggle(option, meta_data(name, queries))
        self.assertEqual(rep, REP_ACK)
        return [data[4:].decode() for kind, data in before]

    def test_before_structured_replies_invalid(self):
        """Contexts need structured replies first."""
        client = self.client()
        client.greet()
        data = meta_data(self.export, ["base:allocation"])
        self.assertEqual(client.haggle(OPT_SET_META, data)[0], ERR_INVALID)
        self.assertEqual(client.haggle(OPT_LIST_META, data)[0], ERR_INVALID)

    def test_list(self):
        """No query, "base:" and the full name list base:allocation; others list nothing."""
        client = self.haggler()
        for queries in ([], ["base:"], ["base:allocation"], ["x:y", "base:"]):
            self.assertEqual(self.contexts(client, OPT_LIST_META, queries), ["base:allocation"])
        for queries in (["x:y"], ["base:other"], ["base:allocation2"], ["qemu:"]):
            self.assertEqual(self.contexts(client, OPT_LIST_META, queries), [])

    def test_set(self):
        """Only the full name selects; "base:" is no wildcard here; no query selects nothing."""
        client = self.haggler()
        for queries in (["base:allocation"], ["x:y", "base:allocation", "base:allocation"]):
            self.assertEqual(self.contexts(client, OPT_SET_META, queries), ["base:allocation"])
        for queries in ([], ["base:"], ["base:other"], ["x:y"]):
            self.assertEqual(self.contexts(client, OPT_SET_META, queries), [])

    def test_truncated_anywhere_invalid(self):
        """Cut at any byte: ERR_INVALID, and haggling goes on."""
        whole = meta_data("n", ["base:a"])
        for option in (OPT_SET_META, OPT_LIST_META):
            client = self.haggler()
            for n in range(len(whole)):
                self.assertEqual(client.haggle(option, whole[:n])[0], ERR_INVALID)
            self.assertEqual(self.contexts(client, option, ["base:allocation"]),
                             ["base:allocation"])

    def test_malformed_invalid(self):
        """Left-over bytes, wild counts, wild lengths, queries without a namespace."""
        client = self.haggler()
        for data in (meta_data(self.export, ["base:allocation"]) + b"x",
                     string(self.export) + struct.pack(">I", 0xffffffff),
                     string(self.export) + struct.pack(">II", 1, 0xffffffff) + b"base:",
                     struct.pack(">I", 0xfffffff0) + b"name",
                     meta_data(self.export, ["base"]),
                     meta_data(self.export, [""]),
                     meta_data(self.export, ["x:" + "y" * 4096]),
                     meta_data("n" * 4097, ["base:allocation"]),
                     meta_data("a\0b", ["base:allocation"])):
            for option in (OPT_SET_META, OPT_LIST_META):
                self.assertEqual(client.haggle(option, data)[0], ERR_INVALID)

    def test_unknown_export(self):
        """Contexts of an export that does not exist."""
        client = self.haggler()
        data = meta_data("no such export", ["base:allocation"])
        self.assertEqual(client.haggle(OPT_SET_META, data)[0], ERR_UNKNOWN)
        self.assertEqual(client.haggle(OPT_LIST_META, data)[0], ERR_UNKNOWN)

    def test_many_queries(self):
        """Hundreds of foreign queries are looked through, not choked on."""
        queries = ["x-foo:%d" % i for i in range(800)] + ["base:allocation"]
        self.assertEqual(self.contexts(self.haggler(), OPT_SET_META, queries),
                         ["base:allocation"])

    def status(self, client):
        self.assertEqual(client.info(self.export, OPT_GO)[0], REP_ACK)
        return client.error(STATUS, 0, 4096)

    def test_selected_works(self):
        """With the context selected, BLOCK_STATUS answers."""
        client = self.haggler()
        self.contexts(client, OPT_SET_META, ["base:allocation"])
        self.assertEqual(self.status(client), 0)

    def test_not_selected_einval(self):
        """Without it, after a later SET that selected nothing, or one that failed: EINVAL."""
        client = self.haggler()
        self.assertEqual(self.status(client), EINVAL)
        for spoiler in (meta_data(self.export, []), meta_data(self.export, ["base:"]), b"x",
                        meta_data("no such export", ["base:allocation"]), bytes(20000)):
            client = self.haggler()
            self.contexts(client, OPT_SET_META, ["base:allocation"])
            client.haggle(OPT_SET_META, spoiler)
            self.assertEqual(self.status(client), EINVAL)

    def test_list_changes_nothing(self):
        """LIST_META leaves the selection as it is."""
        client = self.haggler()
        self.contexts(client, OPT_SET_META, ["base:allocation"])
        self.contexts(client, OPT_LIST_META, ["x:y"])
        self.assertEqual(self.status(client), 0)


class MetaContextsOfOthers(Case):
    only_ram = True

    def test_other_name_einval(self):
        """A selection holds only for the export name that it was made for."""
        client = self.client()
        client.greet()
        client.haggle(OPT_STRUCTURED_REPLY)
        client.structured = True
        self.assertEqual(client.haggle(OPT_SET_META, meta_data("slow", ["base:allocation"]))[0],
                         REP_ACK)
        client.info("ram", OPT_GO)
        self.assertEqual(client.error(STATUS, 0, 4096), EINVAL)

    def test_list_all(self):
        """LIST names every export, in batches if need be."""
        client = self.client()
        client.greet()
        names = [data[4:].decode() for kind, data in client.haggle(OPT_LIST)[1]]
        self.assertEqual(names, ["ram", "read-only", "slow", "faulty", "gated", "lonely"])

    def test_flags_of_exports(self):
        """READ_ONLY and CAN_MULTI_CONN follow the export."""
        self.assertTrue(self.into("read-only").flags & 1 << 1)
        self.assertFalse(self.into("ram").flags & 1 << 1)
        self.assertTrue(self.into("ram").flags & 1 << 8)
        self.assertFalse(self.into("lonely").flags & 1 << 8)


if __name__ == "__main__":
    main()
