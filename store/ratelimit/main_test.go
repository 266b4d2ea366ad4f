package ratelimit_test

import (
	"os"
	"testing"

	"github.com/berthcare/larder/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }
